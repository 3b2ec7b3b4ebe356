"""2-D convolution with PyTorch's semantics, handed straight to oneDNN or cuDNN.

Jittor's own `nn.conv2d` is a broadcast-multiply-reduce pattern that its fuser *usually* hands to
the library. When part of a graph is fetched early it may not, and then runs loops with 32-bit
indices, which end in a segmentation fault on the 9x9 kernels. Calling the library leaves nothing to
recognise. On the CPU it is called with activations in blocks of channels (see `model.ops.layout`),
which Jittor's own operators for it do not know.
"""

from __future__ import annotations

import functools

import numpy as np

from model.ops.batch_norm import LINEAR, BatchNorm
from model.ops.elementwise import add_bias
from model.ops.layout import shape_like, shape_of
from model.ops.native import BFLOAT16, code, on_cuda, read_header
from utils import runtime
from utils.runtime import jt

Pair = tuple[int, int]  # vertical, horizontal


@functools.cache  # finding the folder looks at the disk
def _compile_options():
    folder = runtime.onednn_folder()
    return {f"FLAGS: -I{folder}/include -L{folder}/lib -lmkldnn ": 1}


_NAMES = ("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "groups")


class _ConvOneDNN(jt.Function):
    """A convolution and its two gradients by oneDNN, either form of activations."""

    def __init__(self, stride, padding, dilation, groups):
        self.data = dict(zip(_NAMES, (*stride, *padding, *dilation, groups)))

    def run(self, function, shape, dtype, *inputs):
        for operand in inputs:  # conv.h would read any other type as one of these
            if operand.dtype not in ("float32", BFLOAT16):
                raise TypeError(f"a convolution of {operand.dtype}: float32 is needed, as "
                                "utils.data.images.to_float makes of images")
        operands = ", ".join(f"in{i}" for i in range(len(inputs)))
        y = jt.code(
            shape, dtype, list(inputs), cpu_header=read_header("conv.h"),
            cpu_src=f"onednn::{function}({operands}, out0, data);", data=self.data,
        )
        y.compile_options = _compile_options()
        return y

    def output_shape(self, x, weight):
        n, _, *size = shape_of(x)
        height, width = (
            (size[i] + 2 * self.data[f"padding_{axis}"]
             - self.data[f"dilation_{axis}"] * (weight.shape[2 + i] - 1) - 1)
            // self.data[f"stride_{axis}"] + 1
            for i, axis in enumerate("hw"))
        return shape_like(x, n, weight.shape[0], height, width)

    def execute(self, x, weight):
        self.saved = x, weight
        return self.run("forward", self.output_shape(x, weight), x.dtype, x, weight)

    def grad(self, dy):
        x, weight = self.saved
        return (self.run("backward_data", x.shape, x.dtype, dy, weight),
                self.run("backward_weights", weight.shape, weight.dtype, x, dy))


class _WideConvOneDNN(_ConvOneDNN):
    """One with a kernel wider than oneDNN's fast gradients take, which are ten times as fast.

    Stride 1, one group, an odd width, and a horizontal padding of `dilation` at least.
    """

    def grad(self, dy):
        x, weight = self.saved
        (*channels, kh, kw), settings = weight.shape, self.data
        padding, dilation = ((settings[f"{name}_h"], settings[f"{name}_w"])
                             for name in ("padding", "dilation"))
        around = [d * (k - 1) - p for d, k, p in zip(dilation, (kh, kw), padding)]
        turned = jt.flip(weight, (2, 3)).permute(1, 0, 2, 3)
        dx = _ConvOneDNN((1, 1), around, dilation, 1).run("forward", x.shape, x.dtype, dy, turned)
        # Every other tap is a kernel of twice the dilation.
        taps = [
            _ConvOneDNN((1, 1), (padding[0], padding[1] - first * dilation[1]),
                        (dilation[0], 2 * dilation[1]), 1)
            .run("backward_weights", (*channels, kh, count), weight.dtype, x, dy)
            for first, count in ((0, kw // 2 + 1), (1, kw // 2))]
        taps[1] = jt.nn.pad(taps[1], [0, 1, 0, 0])
        return dx, jt.stack(taps, 4).reshape(*channels, kh, kw + 1)[..., :kw]


@functools.cache
def _cudnn_ops():
    """cuDNN's operators; the algorithms of more shapes than the usual 100 are remembered, for each
    of which cuDNN tries out several."""
    jt.cudnn.set_algorithm_cache_size(10_000)
    return jt.cudnn.ops


class _ConvCuDNN(jt.Function):
    """A convolution and its two gradients as three operators of cuDNN."""

    def __init__(self, stride, padding, dilation, groups):
        formats = ("abcd", "oihw", "abcd")  # of x, weight and y
        self.arguments = (*stride, *padding, *dilation, groups, *formats)

    def execute(self, x, weight):
        self.saved = x, weight
        return _cudnn_ops().cudnn_conv(x, weight, *self.arguments)

    def grad(self, dy):
        x, weight = self.saved
        ops = _cudnn_ops()
        return (ops.cudnn_conv_backward_x(weight, dy, *x.shape[2:], *self.arguments),
                ops.cudnn_conv_backward_w(x, dy, *weight.shape[2:], *self.arguments))


WIDEST = 14  # oneDNN's fast gradients end there (in height they do not)


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def conv2d(
    x: jt.Var, weight: jt.Var, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1,
) -> jt.Var:
    """Cross-correlation of `x` with `weight` (O×C/groups×kh×kw), without bias.

    Args:
        x: N×C×H×W, or in blocks of channels (`model.ops.layout`); the result has the same form.
        stride, padding, dilation: one number, or (vertical, horizontal).
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    if jt.flags.use_cuda and jt.cudnn is not None:
        return _ConvCuDNN(stride, padding, dilation, groups)(x, weight)
    if not jt.flags.use_cuda and jt.mkl_ops is not None:
        width = weight.shape[3]
        wide = (width > WIDEST and width % 2 and not on_cuda() and stride == (1, 1) and groups == 1
                and padding[1] >= dilation[1])
        convolution = _WideConvOneDNN if wide else _ConvOneDNN
        return convolution(stride, padding, dilation, groups)(x, weight)
    return jt.nn.conv2d(x, weight, None, stride, padding, dilation, groups)


def conv2d_activated(
    x: jt.Var, weight: jt.Var, bias: jt.Var, slope: float = LINEAR, stride: int | Pair = 1,
    padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> jt.Var:
    """`conv2d`, a bias and an activation, rounded once; without gradient, by oneDNN alone.

    Args:
        bias: one a channel of the result.
        slope: of the activation, as in `BatchNorm`.
    """
    conv = _ConvOneDNN(_pair(stride), _pair(padding), _pair(dilation), groups)
    conv.data["slope"] = slope
    return conv.run("activated", conv.output_shape(x, weight), x.dtype, x, weight, bias)


def conv2d_sum_activated(
    x1: jt.Var, kernels: jt.Var, x2: jt.Var, weight: jt.Var, bias: jt.Var, slope: float,
    padding: Pair,
) -> jt.Var:
    """Each image of x1 with 1×1 `kernels` of its own (N×C×C×1×1), and `conv2d` of x2: their sum, a
    bias and an activation; without gradient, by oneDNN alone."""
    conv = _ConvOneDNN((1, 1), padding, (1, 1), 1)
    conv.data["slope"] = slope
    return conv.run("activated_sum", x1.shape, x1.dtype, x1, kernels, x2, weight, bias)


def doubled_conv3x3(x: jt.Var, weight: jt.Var) -> jt.Var:
    """`conv2d(upsample_nearest2x(x), weight, padding=1)`; without gradient, by oneDNN alone.

    Each value of x meets a tap four times. Added up before, the taps are a 4×4 kernel of a
    transposed convolution of stride 2, with 4/9 of the multiplications.
    """
    n, channels, h, w = shape_of(x)
    hidden = weight.shape[0]
    kernel = code((channels, hidden, 4, 4), "float32", [weight], "resize.h",
                  "resize::doubling_kernel(in0_shape0, in0_shape1, {in0}, {out0});")
    transposed = _ConvOneDNN((2, 2), (1, 1), (1, 1), 1)
    return transposed.run("backward_data", shape_like(x, n, hidden, 2 * h, 2 * w), x.dtype, x,
                          kernel)


def uniform(shape: tuple[int, ...], bound: float) -> jt.Var:
    """A parameter drawn from U(-bound, bound) by NumPy's generator: the same on every device."""
    return jt.array(np.random.uniform(-bound, bound, shape).astype(np.float32))


class Conv2d(jt.Module):
    """A convolution layer, initialised as PyTorch's defaults do.

    Kaiming-uniform with a = √5 is U(-1/√fan_in, 1/√fan_in), for the weight and the bias alike.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, stride: int = 1,
        padding: int | Pair = 0, bias: bool = True,
    ):
        kernel_size = _pair(kernel_size)
        bound = (in_channels * kernel_size[0] * kernel_size[1]) ** -0.5
        self.weight = uniform((out_channels, in_channels, *kernel_size), bound)
        self.bias = uniform((out_channels,), bound) if bias else None
        self.stride, self.padding = stride, padding

    def without_bias(self, x: jt.Var) -> jt.Var:
        """The convolution alone, for a batch norm that takes the bias over."""
        return conv2d(x, self.weight, self.stride, self.padding)

    def execute(self, x: jt.Var) -> jt.Var:
        if self.bias is None:
            return self.without_bias(x)
        if x.dtype == BFLOAT16 and not self.is_training() and jt.flags.no_grad:
            return conv2d_activated(
                x, self.weight, self.bias, stride=self.stride, padding=self.padding)
        return add_bias(self.without_bias(x), self.bias)

    def normalised(self, x: jt.Var, norm: BatchNorm, slope: float | None = None) -> jt.Var:
        """A batch norm after it, folded into it where that may be done.

        Args:
            slope: of the activation, in place of the norm's; only where it is folded.
        """
        if not norm.folds(x):
            return norm(self.without_bias(x), self.bias)
        weight, bias = norm.folded_into(self.weight, self.bias)
        slope = norm.slope if slope is None else slope
        return conv2d_activated(x, weight, bias, slope, self.stride, self.padding)
