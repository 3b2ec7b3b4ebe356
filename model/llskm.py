"""LLSKM, the learnable local saliency kernel: centre minus neighbours (Wu et al., TGRS 2024).

    Y = W_sum * X  −  W * X  +  θ(X) ∘ (W_c * X)

W_sum and W_c are 1×1 kernels: the sum of W over its taps, and its centre tap. θ is one weight per
image and channel, so all three terms are *one* convolution, with another kernel for each image:

    K_n = δ_centre · (W_sum + θ_n ∘ W_c) − W

which is a convolution grouped over the batch: one pass over memory in place of three.
"""

from __future__ import annotations

from model.blocks import ConvStack, conv1x1
from model.ops.batch_norm import LINEAR, RELU, BatchNorm
from model.ops.conv import Conv2d, conv2d_sum_activated
from model.ops.elementwise import share
from model.ops.llskm import (
    attends,
    attention,
    attention_predicted,
    centres,
    image_conv,
    kernels,
    per_image_conv,
    scaled,
    subtract_conv,
)
from utils.runtime import jt


class Dense(jt.Module):
    """A 1×1 convolution without bias of N×C×1×1, in double precision."""

    def __init__(self, in_channels: int, out_channels: int):
        self.weight, self.bias = conv1x1(in_channels, out_channels).weight, None

    def execute(self, x: jt.Var) -> jt.Var:
        weight = self.weight.float64().reshape(1, *self.weight.shape[:2])
        return (x.reshape(x.shape[0], 1, -1) * weight).sum(2).reshape(x.shape[0], -1, 1, 1)

    def normalised(self, x: jt.Var, norm: BatchNorm) -> jt.Var:
        """A batch norm after it."""
        return norm(self(x))


class ChannelAttention(jt.Module):
    """θ: pooled N×C×1×1 → 1×1 conv C→C/4 → BN → ReLU → 1×1 conv C/4→C → BN → sigmoid.

    All in double precision: its norms see one value of each image, often nearly the same one, so
    that rounding errors grow by orders of magnitude. It costs next to nothing.
    """

    def __init__(self, channels: int):
        hidden = channels // 4
        # Place 0 of the official Sequential is the pooling, which the contrast stage shares.
        self.avg_channel = ConvStack({
            1: (Dense(channels, hidden), BatchNorm(hidden, RELU)),
            4: (Dense(hidden, channels), BatchNorm(channels, LINEAR)),
        })

    def execute(self, pooled: jt.Var) -> jt.Var:
        if attends(self.is_training()):
            return attention(pooled, *self._parts())
        return jt.sigmoid(self.avg_channel(pooled))

    def predicted(self, pooled: jt.Var) -> jt.Var:
        """The same in one operator, without gradient, on the CPU."""
        return attention_predicted(pooled, *self._parts())

    def _parts(self):
        (dense1, norm1), (dense2, norm2) = self.avg_channel.steps
        return dense1.weight, norm1, dense2.weight, norm2


class LLSKM(jt.Module):
    """The k×k form.

    Args:
        channels: C, in and out.
        kernel_size: k, odd.
        dilation: d; the padding is d·(k−1)/2, so that the size is kept.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1):
        self.conv = Conv2d(channels, channels, kernel_size, bias=False)
        self.attn = ChannelAttention(channels)
        self.kernel_size, self.dilation = kernel_size, dilation

    def execute(self, x: jt.Var, pooled: jt.Var) -> jt.Var:
        """N×C×H×W and its `global_average` → N×C×H×W."""
        return image_conv(x, self.attn(pooled), self.kernels, self.centre, *self._geometry())

    def kernels(self, theta: jt.Var) -> jt.Var:
        """θ, N×C×1×1 → K_n = δ·(W_sum + θ_n∘W_c) − W, N×C×C×k×k."""
        return kernels(self.conv.weight, theta)

    def centre(self) -> jt.Var:
        """W_c, C×C×1×1."""
        half = self.kernel_size // 2
        return self.conv.weight[:, :, half : half + 1, half : half + 1]

    def normalised(self, x: jt.Var, pooled: jt.Var, norm: BatchNorm) -> jt.Var:
        """A batch norm after it, folded into it where that may be done."""
        if not norm.folds(x):
            return norm(self(x, pooled))
        scale, shift = norm.scale_and_shift()
        folded = scaled("kernels", [self.conv.weight], self.attn.predicted(pooled), scale)
        return per_image_conv(x, folded, *self._geometry(), shift, norm.slope)

    def _geometry(self):
        """Padding and dilation."""
        return self.dilation * (self.kernel_size // 2), self.dilation


class LLSKM1D(jt.Module):
    """The separable form: a 1×k and a k×1 convolution stand for W, their outer product.

    W_sum and W_c, per pair of channels the product of the two sums and of the two centre taps,
    are 1×1 kernels and again one per-image convolution together.

    Args:
        channels: C, in and out.
        kernel_size: k, odd.
    """

    def __init__(self, channels: int, kernel_size: int):
        self.conv_1xn = Conv2d(channels, channels, (1, kernel_size), padding=(0, kernel_size // 2))
        self.conv_nx1 = Conv2d(channels, channels, (kernel_size, 1), padding=(kernel_size // 2, 0))
        self.attn = ChannelAttention(channels)
        self.kernel_size = kernel_size

    def execute(self, x: jt.Var, pooled: jt.Var) -> jt.Var:
        """N×C×H×W and its `global_average` → N×C×H×W."""
        x, straight = share(x, 2)
        centre = image_conv(x, self.attn(pooled), self.kernels, self.centre)
        return subtract_conv(centre, self.conv_1xn(straight), self.conv_nx1)

    def kernels(self, theta: jt.Var) -> jt.Var:
        """θ, N×C×1×1 → W_sum + θ_n∘W_c, N×C×C×1×1."""
        return centres(self.conv_1xn.weight, self.conv_nx1.weight, theta)

    def centre(self) -> jt.Var:
        """W_c, C×C×1×1."""
        half = self.kernel_size // 2
        row, column = self.conv_1xn.weight, self.conv_nx1.weight
        return row[:, :, :, half : half + 1] * column[:, :, half : half + 1, :]

    def normalised(self, x: jt.Var, pooled: jt.Var, norm: BatchNorm) -> jt.Var:
        """A batch norm after it, folded into it where that may be done."""
        if not norm.folds(x):
            return norm(self(x, pooled))
        scale, shift = norm.scale_and_shift()
        weights = [self.conv_1xn.weight, self.conv_nx1.weight]
        folded = scaled("centres", weights, self.attn.predicted(pooled), scale)
        weight = -scale * self.conv_nx1.weight.float64()
        bias = shift - scale.reshape(-1) * self.conv_nx1.bias
        return conv2d_sum_activated(x, folded, self.conv_1xn(x), weight.float32(), bias.float32(),
                                    norm.slope, self.conv_nx1.padding)
