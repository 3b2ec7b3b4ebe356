"""LLSKM as the official code computes it, three convolutions: the oracle for ours."""

from __future__ import annotations

from model.llskm import LLSKM, LLSKM1D
from model.ops.conv import conv2d
from model.ops.layout import per_channel
from utils import runtime


def llskm(
    block: LLSKM | LLSKM1D, x: runtime.jt.Var, pooled: runtime.jt.Var
) -> runtime.jt.Var:
    """W_sum * X − W * X + θ ∘ (W_c * X) with the weights of one of our blocks."""
    half = block.kernel_size // 2
    if isinstance(block, LLSKM1D):
        row, column = block.conv_1xn.weight, block.conv_nx1.weight
        kernel = row * column  # O×C×1×k by O×C×k×1: the outer product per pair of channels
        neighbours = block.conv_nx1(block.conv_1xn(x))
    else:
        kernel = block.conv.weight
        padding = block.dilation * half
        neighbours = conv2d(x, kernel, padding=padding, dilation=block.dilation)
    w_sum = kernel.sum((2, 3), keepdims=True)
    w_centre = kernel[:, :, half : half + 1, half : half + 1]
    theta = per_channel(block.attn(pooled).float32(), x)
    return conv2d(x, w_sum) - neighbours + theta * conv2d(x, w_centre)
