"""2-D convolution with PyTorch's semantics, handed straight to oneDNN or cuDNN.

Jittor's own `nn.conv2d` is a broadcast-multiply-reduce pattern that its fuser *usually* hands to
the library. When part of a graph is fetched early it may not, and then runs loops with 32-bit
indices, which end in a segmentation fault on the 9x9 kernels. Calling the library leaves nothing to
recognise. On the CPU it is called with activations in blocks of channels (see `model.ops.layout`),
which Jittor's own operators for it do not know.
"""

from __future__ import annotations

import functools
from pathlib import Path

from . import jt
from .batch_norm import LINEAR
from .elementwise import bias_activated
from .layout import avx2_alone, shape_like, shape_of
from .native import BFLOAT16, on_cuda, read_header

Pair = tuple[int, int]  # vertical, horizontal


@functools.cache  # finding the folder looks at the disk
def _compile_options():
    # Where Jittor's own operators of oneDNN are compiled against it.
    home = Path(jt.compiler.jit_utils.home(), ".cache", "jittor", "mkl")
    folder = next(path for path in home.iterdir() if path.name.startswith("dnnl"))
    return {f"FLAGS: -I{folder}/include -L{folder}/lib -lmkldnn ": 1}


_NAMES = ("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "groups")


class _ConvOneDNN(jt.Function):
    """A convolution and its two gradients by oneDNN, either form of activations."""

    def __init__(self, stride, padding, dilation, groups):
        self.data = dict(zip(_NAMES, (*stride, *padding, *dilation, groups)))

    def run(self, function, shape, dtype, *inputs):
        for operand in inputs:  # conv.h would read any other type as one of these
            if operand.dtype not in ("float32", BFLOAT16):
                raise TypeError(f"a convolution of {operand.dtype}: float32 is needed; cast the "
                                "input to float32, an image to [0, 1]")
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
    """A convolution with a kernel wider than 14, at which oneDNN's fast gradients end.

    They are ten times as fast, so the gradients are computed by other calls. For stride 1, one
    group, an odd width, and a horizontal padding of at least `dilation`.
    """

    def grad(self, dy):
        x, weight = self.saved
        (*channels, kh, kw), settings = weight.shape, self.data
        padding, dilation = ((settings[f"{name}_h"], settings[f"{name}_w"])
                             for name in ("padding", "dilation"))
        around = [d * (k - 1) - p for d, k, p in zip(dilation, (kh, kw), padding)]
        turned = jt.flip(weight, (2, 3)).permute(1, 0, 2, 3)
        dx = _ConvOneDNN((1, 1), around, dilation, 1).run("forward", x.shape, x.dtype, dy, turned)
        # The even columns of the kernel are one kernel with twice the horizontal dilation, the odd
        # columns another.
        taps = [
            _ConvOneDNN((1, 1), (padding[0], padding[1] - first * dilation[1]),
                        (dilation[0], 2 * dilation[1]), 1)
            .run("backward_weights", (*channels, kh, count), weight.dtype, x, dy)
            for first, count in ((0, kw // 2 + 1), (1, kw // 2))]
        taps[1] = jt.nn.pad(taps[1], [0, 1, 0, 0])
        return dx, jt.stack(taps, 4).reshape(*channels, kh, kw + 1)[..., :kw]


class _ConvAVX2(_ConvOneDNN):
    """A convolution of stride 1 that oneDNN has only slow kernels for on CPUs with AVX2 alone.

    oneDNN 2.2 has fast AVX2 kernels for a horizontal padding of at most 3, and for gradients of
    weights that are neither dilated nor wider than 14. The same sums of products in another order.
    """

    def execute(self, x, weight):
        self.saved = x, weight
        return self._padded(x, weight, self._pair("padding"), self.output_shape(x, weight))

    def grad(self, dy):
        x, weight = self.saved
        padding, dilation = self._pair("padding"), self._pair("dilation")
        around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding)]
        if around[1] > AVX2_PADDING:
            groups = self.data["groups"]
            turned = weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 2, 1, 3, 4)
            turned = jt.flip(turned.reshape(-1, *turned.shape[2:]), (2, 3))
            dx = self._padded(dy, turned, around, x.shape)
        else:
            dx = self.run("backward_data", x.shape, x.dtype, dy, weight)
        return dx, self._weight_gradient(x, dy, weight)

    def _pair(self, name):
        return self.data[f"{name}_h"], self.data[f"{name}_w"]

    def _like(self, padding, dilation):
        return _ConvOneDNN((1, 1), padding, dilation, self.data["groups"])

    def _padded(self, x, weight, padding, shape):
        """The convolution; a wide horizontal padding is made of zeros in memory."""
        height, width = padding
        if width > AVX2_PADDING:
            x, width = _zeros_around(x, (0, 0), (width, width)), 0
        conv = self._like((height, width), self._pair("dilation"))
        return conv.run("forward", shape, x.dtype, x, weight)

    def _weight_gradient(self, x, dy, weight):
        padding, dilation = self._pair("padding"), self._pair("dilation")
        if dilation == (1, 1):
            if weight.shape[3] > WIDEST:
                return self._halves(x, dy, weight)
            return self.run("backward_weights", weight.shape, weight.dtype, x, dy)
        # A kernel of dilation d combines only pixels whose distance is a multiple of d. So the
        # image splits into d×d images, on which the kernel has dilation 1.
        ends = [-(h + 2 * p) % d for h, p, d in zip(x.shape[2:4], padding, dilation)]
        x = _zeros_around(x, *((p, p + e) for p, e in zip(padding, ends)))
        dy = _zeros_around(dy, *((0, -h % d) for h, d in zip(dy.shape[2:4], dilation)))
        conv = self._like((0, 0), (1, 1))
        x, dy = (_every(v, dilation) for v in (x, dy))
        return conv.run("backward_weights", weight.shape, weight.dtype, x, dy)

    def _halves(self, x, dy, weight):
        """The gradient of a wide kernel's left and right taps, one after the other."""
        *rest, width = weight.shape
        height, columns = self._pair("padding")
        x = _zeros_around(x, (0, 0), (columns, columns))
        conv, size = self._like((height, 0), (1, 1)), dy.shape[3]
        return jt.concat([
            conv.run("backward_weights", (*rest, count), weight.dtype,
                     x[:, :, :, first : first + size + count - 1], dy)
            for first, count in ((0, width // 2), (width // 2, width - width // 2))], 3)


def _zeros_around(x, rows, columns):
    """Activations in blocks of channels with zeros (before, after) along both axes."""
    return x if not any((*rows, *columns)) else jt.nn.pad(x, [0, 0, *columns, *rows])


def _every(x, step):
    """Activations in blocks of channels, N images → N·step_h·step_w of every step-th pixel."""
    (n, groups, h, w, b), (down, across) = x.shape, step
    x = x.reshape(n, groups, h // down, down, w // across, across, b).permute(0, 3, 5, 1, 2, 4, 6)
    return x.reshape(n * down * across, groups, h // down, w // across, b)


class _ConvCuDNN(jt.Function):
    """A convolution and its two gradients as three operators of cuDNN."""

    def __init__(self, stride, padding, dilation, groups):
        formats = ("abcd", "oihw", "abcd")  # of x, weight and y
        self.arguments = (*stride, *padding, *dilation, groups, *formats)

    def execute(self, x, weight):
        self.saved = x, weight
        return jt.cudnn.ops.cudnn_conv(x, weight, *self.arguments)

    def grad(self, dy):
        x, weight = self.saved
        ops = jt.cudnn.ops
        return (ops.cudnn_conv_backward_x(weight, dy, *x.shape[2:], *self.arguments),
                ops.cudnn_conv_backward_w(x, dy, *weight.shape[2:], *self.arguments))


AVX2_PADDING = 3  # the widest of oneDNN's fast kernels for AVX2
WIDEST = 14  # oneDNN's fast gradients end there (in height they do not)


def by_onednn() -> bool:
    """Whether convolutions are computed by oneDNN here."""
    return not jt.flags.use_cuda and jt.mkl_ops is not None


def pair(value: int | Pair) -> Pair:
    """One number twice, or two as they are."""
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
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    if jt.flags.use_cuda and jt.cudnn is not None:
        return _ConvCuDNN(stride, padding, dilation, groups)(x, weight)
    if by_onednn():
        width = weight.shape[3]
        if (avx2_alone() and x.ndim == 5 and stride == (1, 1)
                and (padding[1] > AVX2_PADDING or dilation != (1, 1))):
            return _ConvAVX2(stride, padding, dilation, groups)(x, weight)
        wide = (width > WIDEST and width % 2 and not on_cuda() and stride == (1, 1) and groups == 1
                and padding[1] >= dilation[1])
        convolution = _WideConvOneDNN if wide else _ConvOneDNN
        return convolution(stride, padding, dilation, groups)(x, weight)
    return jt.nn.conv2d(x, weight, None, stride, padding, dilation, groups)


def conv2d_activated(
    x: jt.Var, weight: jt.Var, bias: jt.Var, slope: float = LINEAR, stride: int | Pair = 1,
    padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> jt.Var:
    """`conv2d`, a bias per channel and an activation with that slope; without gradient."""
    if not by_onednn():
        return bias_activated(conv2d(x, weight, stride, padding, dilation, groups), bias, slope)
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    conv = _ConvOneDNN(stride, padding, dilation, groups)
    shape = conv.output_shape(x, weight)
    if avx2_alone() and x.ndim == 5 and padding[1] > AVX2_PADDING:
        x = _zeros_around(x, (0, 0), (padding[1], padding[1]))
        conv = _ConvOneDNN(stride, (padding[0], 0), dilation, groups)
    conv.data["slope"] = slope
    return conv.run("activated", shape, x.dtype, x, weight, bias)


def conv2d_sum_activated(
    x1: jt.Var, kernels: jt.Var, x2: jt.Var, weight: jt.Var, bias: jt.Var, slope: float,
    padding: Pair,
) -> jt.Var:
    """Per-image 1×1 convolution of x1 with `kernels`, N×C×C×1×1, plus `conv2d` of x2, a bias and an
    activation; without gradient, by oneDNN alone."""
    conv = _ConvOneDNN((1, 1), padding, (1, 1), 1)
    conv.data["slope"] = slope
    return conv.run("activated_sum", x1.shape, x1.dtype, x1, kernels, x2, weight, bias)


def doubling_conv(x: jt.Var, kernel: jt.Var) -> jt.Var:
    """Transposed convolution of stride 2 and padding 1 with C×O×4×4: N×C×H×W → N×O×2H×2W; without
    gradient, by oneDNN alone."""
    n, _, h, w = shape_of(x)
    transposed = _ConvOneDNN((2, 2), (1, 1), (1, 1), 1)
    shape = shape_like(x, n, kernel.shape[1], 2 * h, 2 * w)
    return transposed.run("backward_data", shape, x.dtype, x, kernel)
