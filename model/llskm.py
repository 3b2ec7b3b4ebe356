"""LLSKM, the learnable local saliency kernel: centre minus neighbours (Wu et al., TGRS 2024).

    Y = W_sum * X  −  W * X  +  θ(X) ∘ (W_c * X)

W is a learned k×k kernel; W_sum, the sum of its taps, and W_c, its centre tap, are 1×1 kernels.
The first two terms see contrast alone: inside a constant area they give zero. W_sum contains the
centre tap of W, and −W removes it. The third term adds it back (the channels of the pixel itself,
mixed by W_c), weighted by the attention θ, one number between 0 and 1 per image and output channel.
All three terms are *one* convolution, with one kernel per image:

    K_n = δ_centre · (W_sum + θ_n ∘ W_c) − W        (δ_centre: 1 at the centre tap, 0 elsewhere)

`image_conv` computes it as one convolution grouped over the batch, or, since K_n is affine in θ_n,
as two convolutions with kernels common to all images, whichever is faster.

This file, layers.py and ops/ can be copied into another project.
"""

from __future__ import annotations

from .layers import LINEAR, RELU, BatchNorm, Conv2d, ConvStack, conv1x1
from .ops import jt
from .ops.llskm import (
    CentresCUDA,
    KernelsCUDA,
    attention,
    by_image,
    image_conv,
    on_gpu_by,
    subtract_conv,
)


class Dense(jt.Module):
    """A 1×1 convolution of N×C×1×1, without bias, in double precision."""

    def __init__(self, in_channels: int, out_channels: int):
        self.weight, self.bias = conv1x1(in_channels, out_channels).weight, None

    def convolve(self, x: jt.Var) -> jt.Var:
        """N×C×1×1 → N×O×1×1."""
        weight = self.weight.float64().reshape(1, *self.weight.shape[:2])
        return (x.reshape(x.shape[0], 1, -1) * weight).sum(2).reshape(x.shape[0], -1, 1, 1)


class ChannelAttention(jt.Module):
    """θ: pooled N×C×1×1 → 1×1 conv C→C/4 → BN → ReLU → 1×1 conv C/4→C → BN → sigmoid.

    All in double precision, which costs next to nothing. Its norms divide by the deviation over
    the N images of a batch. The N values are often nearly equal, and then rounding errors grow by
    orders of magnitude.
    """

    def __init__(self, channels: int):
        hidden = channels // 4
        # Index 0 of the official Sequential is the pooling; here the contrast stage pools once for
        # all of its branches.
        self.avg_channel = ConvStack({
            1: (Dense(channels, hidden), BatchNorm(hidden, RELU)),
            4: (Dense(hidden, channels), BatchNorm(channels, LINEAR)),
        })

    def execute(self, pooled: jt.Var) -> jt.Var:
        return attention(pooled, self.avg_channel)


@on_gpu_by(KernelsCUDA)
def square_kernels(weight: jt.Var, theta: jt.Var) -> jt.Var:
    """W, C×C×k×k, and θ, N×C×1×1 → K_n = δ·(W_sum + θ_n∘W_c) − W, N×C×C×k×k.

    In float64; on a GPU rounded to float32.
    """
    half, weight = weight.shape[2] // 2, weight.float64()
    w_sum = weight.sum((2, 3), keepdims=True)
    w_centre = weight[:, :, half : half + 1, half : half + 1]
    tap = w_sum.unsqueeze(0) + by_image(theta) * w_centre.unsqueeze(0)
    return jt.nn.pad(tap, [half] * 4) - weight.unsqueeze(0)


@on_gpu_by(CentresCUDA)
def separable_centres(row: jt.Var, column: jt.Var, theta: jt.Var) -> jt.Var:
    """Rows, C×C×1×k, columns, C×C×k×1, and θ → W_sum + θ_n∘W_c, N×C×C×1×1.

    In float64; on a GPU rounded to float32.
    """
    half, row, column = row.shape[3] // 2, row.float64(), column.float64()
    w_sum = row.sum((2, 3), keepdims=True) * column.sum((2, 3), keepdims=True)
    w_centre = row[:, :, :, half : half + 1] * column[:, :, half : half + 1, :]
    return w_sum.unsqueeze(0) + by_image(theta) * w_centre.unsqueeze(0)


class LLSKM(jt.Module):
    """LLSKM with a k×k kernel, of the 2-D networks.

    Args:
        channels: C, in and out.
        kernel_size: k, odd.
        dilation: d; d·(k−1)/2 zeros are padded on each side, so that the size is kept.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1):
        self.conv = Conv2d(channels, channels, kernel_size, bias=False)  # holds W; never called
        self.attn = ChannelAttention(channels)
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding = dilation * (kernel_size // 2)

    def execute(self, x: jt.Var, pooled: jt.Var) -> jt.Var:
        """N×C×H×W and its mean over height and width, N×C×1×1 → N×C×H×W."""
        theta = self.attn(pooled)
        return image_conv(x, theta, self.kernels, self.centre, self.padding, self.dilation)

    def kernels(self, theta: jt.Var) -> jt.Var:
        """θ, N×C×1×1 → one kernel per image, N×C×C×k×k."""
        return square_kernels(self.conv.weight, theta)

    def centre(self) -> jt.Var:
        """W_c, C×C×1×1."""
        half = self.kernel_size // 2
        return self.conv.weight[:, :, half : half + 1, half : half + 1]


class LLSKM1D(jt.Module):
    """LLSKM with a separable kernel, of the 1-D networks.

    W is a 1×k and then a k×1 convolution, both with biases.

    As in the official code, W_sum and W_c are taken from the outer product of row[o, i] and
    column[o, i], per pair of channels. The two convolutions together are another kernel, because
    they mix channels in between: so a constant input does not give zero here.

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
        """N×C×H×W and its mean over height and width, N×C×1×1 → N×C×H×W."""
        attended = image_conv(x, self.attn(pooled), self.kernels, self.centre)
        return subtract_conv(attended, self.conv_1xn(x), self.conv_nx1)

    def kernels(self, theta: jt.Var) -> jt.Var:
        """θ, N×C×1×1 → the 1×1 part of the kernels, W_sum + θ_n∘W_c, N×C×C×1×1."""
        return separable_centres(self.conv_1xn.weight, self.conv_nx1.weight, theta)

    def centre(self) -> jt.Var:
        """W_c, C×C×1×1."""
        half = self.kernel_size // 2
        row, column = self.conv_1xn.weight, self.conv_nx1.weight
        return row[:, :, :, half : half + 1] * column[:, :, half : half + 1, :]
