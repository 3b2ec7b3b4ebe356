"""LLSKM, the learnable local saliency kernel: centre minus neighbours (Wu et al., TGRS 2024).

    Y = W_sum * X  −  W * X  +  θ(X) ∘ (W_c * X)

W_sum and W_c are 1×1 kernels: the sum of W over its taps, and its centre tap. θ is one weight per
image and channel, so all three terms are *one* convolution, with another kernel for each image:

    K_n = δ_centre · (W_sum + θ_n ∘ W_c) − W

which is a convolution grouped over the batch: one pass over memory in place of three.
"""

from __future__ import annotations

from model.blocks import ConvStack, conv1x1
from model.ops.batch_norm import EPS, LINEAR, RELU, BatchNorm
from model.ops.conv import Conv2d, conv2d_sum_activated, per_image_conv
from model.ops.elementwise import share, subtract
from model.ops.native import code
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
        return jt.sigmoid(self.avg_channel(pooled))

    def predicted(self, pooled: jt.Var) -> jt.Var:
        """The same in one operator, without gradient, on the CPU."""
        (dense1, norm1), (dense2, norm2) = self.avg_channel.steps
        inputs = [pooled, dense1.weight, dense2.weight, *norm1.parts(), *norm2.parts()]
        return code(
            pooled.shape, "float64", inputs, "llskm.h",
            "llskm::theta(in1_shape1, in1_shape0, in0_shape0, {in0}, {in1}, {in2}, "
            f"{{{{in3}}, {{in4}}, {{in5}}, {{in6}}}}, {{{{in7}}, {{in8}}, {{in9}}, {{in10}}}}, "
            f"{EPS}, {{out0}});")


def _predicted(function, weights, theta, scale):
    """The kernels of each image, times a factor on their output channels, by that of llskm.h.

    One operator in place of many small ones: where convolutions are fast, those show.
    """
    c, _, *size = weights[0].shape
    size = size if len(weights) == 1 else (1, 1)
    pointers = ", ".join(f"{{in{i}}}" for i in range(len(weights) + 2))
    return code((theta.shape[0], c, c, *size), "float32", [*weights, theta, scale], "llskm.h",
                f"llskm::{function}(out0_shape0, out0_shape1, in0_shape3, {pointers}, {{out0}});")


def _by_image(theta):
    """θ, N×C×1×1, as a factor on the output channels of kernels, N×C×1×1×1."""
    return theta.reshape(theta.shape[0], theta.shape[1], 1, 1, 1)


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
        kernels = self.kernels(self.attn(pooled))
        return per_image_conv(x, kernels.float32(), *self._geometry())

    def normalised(self, x: jt.Var, pooled: jt.Var, norm: BatchNorm) -> jt.Var:
        """A batch norm after it, folded into it where that may be done."""
        if not norm.folds(x):
            return norm(self(x, pooled))
        scale, shift = norm.scale_and_shift()
        kernels = _predicted("kernels", [self.conv.weight], self.attn.predicted(pooled), scale)
        return per_image_conv(x, kernels, *self._geometry(), shift, norm.slope)

    def _geometry(self):
        """Padding and dilation."""
        return self.dilation * (self.kernel_size // 2), self.dilation

    def kernels(self, theta: jt.Var) -> jt.Var:
        """One of each image, N×C×C×k×k in double precision."""
        half = self.kernel_size // 2
        weight = self.conv.weight.float64()
        w_sum = weight.sum((2, 3), keepdims=True)
        w_centre = weight[:, :, half : half + 1, half : half + 1]
        centre = w_sum.unsqueeze(0) + _by_image(theta) * w_centre.unsqueeze(0)
        return jt.nn.pad(centre, [half] * 4) - weight.unsqueeze(0)


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
        centre = per_image_conv(x, self.kernels(self.attn(pooled)).float32())
        return subtract(centre, self.conv_nx1(self.conv_1xn(straight)))

    def normalised(self, x: jt.Var, pooled: jt.Var, norm: BatchNorm) -> jt.Var:
        """A batch norm after it, folded into it where that may be done."""
        if not norm.folds(x):
            return norm(self(x, pooled))
        scale, shift = norm.scale_and_shift()
        weights = [self.conv_1xn.weight, self.conv_nx1.weight]
        centres = _predicted("centres", weights, self.attn.predicted(pooled), scale)
        weight = -scale * self.conv_nx1.weight.float64()
        bias = shift - scale.reshape(-1) * self.conv_nx1.bias
        return conv2d_sum_activated(x, centres, self.conv_1xn(x), weight.float32(), bias.float32(),
                                    norm.slope, self.conv_nx1.padding)

    def kernels(self, theta: jt.Var) -> jt.Var:
        """The kernel W_sum + θ ∘ W_c of each image, N×C×C×1×1 in double precision."""
        half = self.kernel_size // 2
        row, column = self.conv_1xn.weight.float64(), self.conv_nx1.weight.float64()
        w_sum = row.sum((2, 3), keepdims=True) * column.sum((2, 3), keepdims=True)
        w_centre = row[:, :, :, half : half + 1] * column[:, :, half : half + 1, :]
        return w_sum.unsqueeze(0) + _by_image(theta) * w_centre.unsqueeze(0)
