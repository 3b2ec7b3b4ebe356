"""2-D convolution with PyTorch's semantics, handed straight to oneDNN or cuDNN.

Jittor's own `nn.conv2d` is a broadcast-multiply-reduce pattern that its fuser *usually* hands to
the library. When part of a graph is fetched early it may not, and then runs loops with 32-bit
indices, which end in a segmentation fault on the 9x9 kernels. Calling the library's operators
leaves nothing to recognise.
"""

from __future__ import annotations

import numpy as np

from utils.runtime import jt


class _LibraryConv(jt.Function):
    """A convolution and its two gradients as three library operators (`name`: mkl or cudnn)."""

    def __init__(self, ops, name, stride, padding, dilation, groups):
        self.forward_op = getattr(ops, f"{name}_conv")
        self.weight_op = getattr(ops, f"{name}_conv_backward_w")
        self.input_op = getattr(ops, f"{name}_conv_backward_x")
        formats = ("abcd", "oihw", "abcd")  # of x, weight and y
        self.arguments = (*stride, *padding, *dilation, groups, *formats)

    def execute(self, x, weight):
        self.saved = x, weight
        return self.forward_op(x, weight, *self.arguments)

    def grad(self, dy):
        x, weight = self.saved
        dx = self.input_op(weight, dy, *x.shape[2:], *self.arguments)
        dw = self.weight_op(x, dy, *weight.shape[2:], *self.arguments)
        return dx, dw


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def conv2d(x, weight, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of `x` (N×C×H×W) with `weight` (O×C/groups×kh×kw), without bias.

    Args:
        stride, padding, dilation: one number, or (vertical, horizontal).
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    if jt.flags.use_cuda and jt.cudnn is not None:
        return _LibraryConv(jt.cudnn.ops, "cudnn", stride, padding, dilation, groups)(x, weight)
    if not jt.flags.use_cuda and jt.mkl_ops is not None:
        return _LibraryConv(jt.mkl_ops, "mkl", stride, padding, dilation, groups)(x, weight)
    return jt.nn.conv2d(x, weight, None, stride, padding, dilation, groups)


def uniform(shape, bound):
    """A parameter drawn from U(-bound, bound) by NumPy's generator: the same on every device."""
    return jt.array(np.random.uniform(-bound, bound, shape).astype(np.float32))


class Conv2d(jt.Module):
    """A convolution layer, initialised as PyTorch's defaults do.

    Kaiming-uniform with a = √5 is U(-1/√fan_in, 1/√fan_in), for the weight and the bias alike.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True):
        kernel_size = _pair(kernel_size)
        bound = (in_channels * kernel_size[0] * kernel_size[1]) ** -0.5
        self.weight = uniform((out_channels, in_channels, *kernel_size), bound)
        self.bias = uniform((out_channels,), bound) if bias else None
        self.stride, self.padding = stride, padding

    def without_bias(self, x):
        """The convolution alone, for a batch norm that takes the bias over."""
        return conv2d(x, self.weight, self.stride, self.padding)

    def execute(self, x):
        y = self.without_bias(x)
        return y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1)
