"""2-D convolution with PyTorch's semantics, handed straight to oneDNN or cuDNN.

Jittor's own `nn.conv2d` is a pattern of broadcast, product and sum, which Jittor usually recognises
and hands to the library. When part of a graph is fetched early it may not recognise the pattern. It
then runs loops with 32-bit indices, which end in a segmentation fault on the 9x9 kernels. Here the
library is called directly. On the CPU it is given activations in blocks of channels (see
`model.ops.layout`), which Jittor's own operators of oneDNN do not know.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Tuple

from . import jt
from .batch_norm import LINEAR
from .elementwise import add, bias_activated
from .layout import shape_like, shape_of, widest_block
from .native import BFLOAT16, by_onednn, include, on_cuda

Pair = Tuple[int, int]  # vertical, horizontal


@functools.lru_cache(maxsize=None)  # finding the folder looks at the disk
def _compile_options():
    # The copy of oneDNN that Jittor's own operators are compiled with.
    home = Path(jt.compiler.jit_utils.home(), ".cache", "jittor", "mkl")
    folder = next(path for path in home.iterdir() if path.name.startswith("dnnl"))
    return {f"FLAGS: -I{folder}/include -L{folder}/lib -lmkldnn ": 1}


_NAMES = ("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "groups",
          "slope")


class _ConvOneDNN(jt.Function):
    """A convolution and its two gradients by oneDNN, for activations in either form."""

    def __init__(self, stride, padding, dilation, groups):
        self.data = dict(zip(_NAMES, (*stride, *padding, *dilation, groups, LINEAR)))

    def run(self, function, shape, dtype, *inputs):
        for operand in inputs:  # conv.h would read the bytes of any other type as float32
            if operand.dtype not in ("float32", BFLOAT16):
                raise TypeError(f"a convolution of {operand.dtype}: float32 is needed; cast the "
                                "input to float32, an image to [0, 1]")
        operands = ", ".join(f"in{i}" for i in range(len(inputs)))
        y = jt.code(
            shape, dtype, list(inputs), cpu_header=include("values.h", "conv.h"),
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


class _ConvWinograd(_ConvOneDNN):
    """A convolution with an odd kernel that keeps the size, in fewer multiplications.

    Winograd rounds by the place of a pixel in its tile, so pixels that should be equal may differ.
    A max-pool, which gives the gradient to the first of equal values, then chooses another pixel.
    The UNets pool the results of plain 3×3 convolutions, so in training (`execute`) oneDNN computes
    these results. Winograd computes their gradients, and all other convolutions.
    """

    def code(self, function, shape, x, taps, *arguments, inputs, **data):
        rows, columns = (str(n > 1).lower() for n in taps)
        return jt.code(
            shape, "float32", inputs, cpu_header=include("winograd.h"),
            cpu_src=f"winograd::{function}<{x.shape[4]}, {rows}, {columns}>"
                    f"({', '.join(arguments)}, out0, data);", data={**self.data, **data})

    def forward(self, shape, x, weight, bias=None, added=None, slope=LINEAR, backward=0):
        inputs = [v for v in (x, weight, bias, added) if v is not None]
        names = iter([f"in{i}" for i in range(len(inputs))])
        pointers = ["nullptr" if v is None else next(names) for v in (x, weight, bias, added)]
        return self.code("run", shape, x, weight.shape[2:], *pointers, inputs=inputs, slope=slope,
                         backward=backward)

    def execute(self, x, weight):
        self.saved, shape = (x, weight), self.output_shape(x, weight)
        plain = self.data["dilation_h"] == self.data["groups"] == 1
        if plain and tuple(weight.shape[2:]) == (3, 3):
            return self.run("forward", shape, x.dtype, x, weight)
        return self.forward(shape, x, weight)

    def grad(self, dy):
        x, weight = self.saved
        return (self.forward(x.shape, dy, weight, backward=1),
                self.code("gradient", weight.shape, x, weight.shape[2:], "in0", "in1",
                          inputs=[x, dy]))


def _by_winograd(x, weight, stride, padding, dilation, groups):
    """True if `_ConvWinograd` can compute this convolution, and is faster."""
    outputs, (inputs, *taps) = weight.shape[0] // groups, weight.shape[1:]
    return (x.ndim == 5 and x.shape[4] == widest_block() > 1 and not on_cuda()
            and x.dtype == weight.dtype == "float32"
            and inputs % x.shape[4] == outputs % x.shape[4] == 0 and stride == (1, 1)
            and max(taps) > 1 and taps[0] % 2 == taps[1] % 2 == 1
            and padding == tuple(d * (k // 2) for d, k in zip(dilation, taps)))


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


def pair(value: int | Pair) -> Pair:
    """(value, value) for one number; two numbers as a tuple."""
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
    if jt.mkl_ops is not None and not jt.flags.use_cuda:  # in a rehearsal of a GPU too
        if _by_winograd(x, weight, stride, padding, dilation, groups):
            return _ConvWinograd(stride, padding, dilation, groups)(x, weight)
        return _ConvOneDNN(stride, padding, dilation, groups)(x, weight)
    return jt.nn.conv2d(x, weight, None, stride, padding, dilation, groups)


def conv2d_activated(
    x: jt.Var, weight: jt.Var, bias: jt.Var, slope: float = LINEAR, stride: int | Pair = 1,
    padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1, added: jt.Var | None = None,
) -> jt.Var:
    """Activation of (`conv2d` + `added` + a bias per channel); without gradient."""
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    if by_onednn() and _by_winograd(x, weight, stride, padding, dilation, groups):
        conv = _ConvWinograd(stride, padding, dilation, groups)
        return conv.forward(conv.output_shape(x, weight), x, weight, bias, added, slope)
    if added is not None:
        y = conv2d_activated(x, weight, bias, LINEAR, stride, padding, dilation, groups)
        return add([y, added], slope)
    if not by_onednn():
        return bias_activated(conv2d(x, weight, stride, padding, dilation, groups), bias, slope)
    conv = _ConvOneDNN(stride, padding, dilation, groups)
    shape = conv.output_shape(x, weight)
    conv.data["slope"] = slope
    return conv.run("activated", shape, x.dtype, x, weight, bias)


def conv2d_sum_activated(
    x1: jt.Var, kernels: jt.Var, x2: jt.Var, weight: jt.Var, bias: jt.Var, slope: float,
    padding: Pair,
) -> jt.Var:
    """Activation of (per-image convolution of x1 with `kernels`, N×C×C×1×1, + `conv2d` of x2 + a
    bias per channel); without gradient, by oneDNN alone."""
    conv = _ConvOneDNN((1, 1), padding, (1, 1), 1)
    conv.data["slope"] = slope
    return conv.run("activated_sum", x1.shape, x1.dtype, x1, kernels, x2, weight, bias)


def doubling_conv(x: jt.Var, kernel: jt.Var) -> jt.Var:
    """Transposed convolution, N×C×H×W → N×O×2H×2W, with C×O×4×4, stride 2 and padding 1; without
    gradient, by oneDNN alone."""
    n, _, h, w = shape_of(x)
    transposed = _ConvOneDNN((2, 2), (1, 1), (1, 1), 1)
    shape = shape_like(x, n, kernel.shape[1], 2 * h, 2 * w)
    return transposed.run("backward_data", shape, x.dtype, x, kernel)
