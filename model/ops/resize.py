"""Changing height and width: padding, nearest and bilinear."""

from __future__ import annotations

import numpy as np

from . import jt
from .batch_norm import RELU, activate
from .conv import conv2d, conv2d_activated, doubling_conv
from .elementwise import bias_activated
from .layout import AMX, uses
from .native import BFLOAT16, by_onednn, code, cuda_code, on_cuda


def pad_to_multiple(x: jt.Var, multiple: int) -> jt.Var:
    """Pads N×C×H×W at the bottom and right until H and W are multiples of `multiple`.

    The edge is repeated. Zeros would make a step that looks like contrast; a reflection could show
    a target twice, and needs an image larger than the padding.
    """
    height, width = x.shape[2:]
    if height % multiple:
        x = jt.concat([x] + [x[:, :, -1:]] * (-height % multiple), 2)
    if width % multiple:
        x = jt.concat([x] + [x[:, :, :, -1:]] * (-width % multiple), 3)
    return x


def crop(x: jt.Var, height: int, width: int) -> jt.Var:
    """Cuts N×C×H×W to height×width, from the upper left corner."""
    return x if (height, width) == tuple(x.shape[2:]) else x[:, :, :height, :width]


class _DoubleSizeCUDA(jt.Function):
    def execute(self, x):
        n, c, h, w = self.shape = x.shape
        return cuda_code(
            (n, c, 2 * h, 2 * w), "float32", [x], "resize.cuh",
            "LAUNCH((resize::double_size), blocks_for(out0->num), out0->num, in0_shape3, {in0}, "
            "{out0});")

    def grad(self, dy):
        return cuda_code(
            self.shape, "float32", [dy], "resize.cuh",
            "LAUNCH((resize::double_size_gradient), blocks_for(out0->num), out0->num, out0_shape3, "
            "{in0}, {out0});")


class _BilinearCUDA(jt.Function):
    def __init__(self, size):
        self.size = size

    def execute(self, x):
        self.shape = x.shape
        return self.run("bilinear", (*x.shape[:2], *self.size), "in0", "out0", x)

    def grad(self, dy):
        return self.run("bilinear_gradient", self.shape, "out0", "in0", dy)

    def run(self, kernel, shape, old, new, x):
        sizes = ", ".join(f"{operand}_shape{axis}" for operand in (old, new) for axis in (2, 3))
        return cuda_code(
            shape, "float32", [x], "resize.cuh",
            f"LAUNCH((resize::{kernel}), blocks_for(out0->num), out0->num, {sizes}, "
            "{in0}, {out0});")


def upsample_nearest2x(x: jt.Var) -> jt.Var:
    """Doubles height and width by repeating each pixel."""
    if on_cuda():
        return _DoubleSizeCUDA()(x)
    n, c, h, w, *block = x.shape
    x = x.reshape(n, c, h, 1, w, 1, *block).broadcast([n, c, h, 2, w, 2, *block])
    return x.reshape(n, c, 2 * h, 2 * w, *block)


def doubled_conv3x3(x: jt.Var, weight: jt.Var, bias: jt.Var, slope: float) -> jt.Var:
    """Activation of (`conv2d(upsample_nearest2x(x), weight, padding=1)` + a bias per channel);
    without gradient.

    After doubling, several taps read one value of x. With oneDNN these taps are added up first,
    which leaves a transposed convolution of stride 2 with a 4×4 kernel: 4/9 of the multiplications.
    oneDNN's transposed convolutions do not use AMX. There, a plain convolution computes the four
    pixels that come from one pixel as four times as many channels.
    """
    if not by_onednn():
        return bias_activated(conv2d(upsample_nearest2x(x), weight, padding=1), bias, slope)
    outputs, channels = weight.shape[:2]
    if x.dtype == BFLOAT16 and uses(AMX) and x.ndim == 5 and outputs % x.shape[4] == 0:
        kernel = code((4 * outputs, channels, 3, 3), "float32", [weight], "resize.h",
                      "resize::kernel_of_four(in0_shape0, in0_shape1, {in0}, {out0});")
        y = conv2d_activated(x, kernel, jt.concat([bias] * 4), slope, padding=1)
        n, _, h, w, block = x.shape
        return code((n, outputs // block, 2 * h, 2 * w, block), BFLOAT16, [y], "resize.h",
                    f"resize::join_four<{block}>(out0_shape0, out0_shape1, in0_shape2, in0_shape3, "
                    "{in0}, {out0});")
    kernel = code((channels, outputs, 4, 4), "float32", [weight], "resize.h",
                  "resize::doubling_kernel(in0_shape0, in0_shape1, {in0}, {out0});")
    return bias_activated(doubling_conv(x, kernel), bias, slope)


def add_resized(coarse: jt.Var, fine: jt.Var) -> jt.Var:
    """fine + ReLU(`resize_bilinear` of coarse), rounded once; without gradient."""
    if fine.ndim == 4:
        return fine + activate(resize_bilinear(coarse, fine.shape[2:]), RELU)
    block = fine.shape[4]
    sizes = [f"in{i}_shape{axis}" for i in (0, 1) for axis in (2, 3)]
    return code(fine.shape, fine.dtype, [coarse, fine], "resize.h",
                f"resize::add_resized<{block}>(in0_shape0 * in0_shape1, {sizes[0]}, {sizes[1]}, "
                f"{{in0}}, {sizes[2]}, {sizes[3]}, {{in1}}, {{out0}});")


def _bilinear_matrix(size, new_size):
    """new_size × size weights of linear interpolation with half-pixel centres, edges clamped."""
    centres = (np.arange(new_size, dtype=np.float64) + 0.5) * (size / new_size) - 0.5
    centres = centres.clip(0, None)
    low = np.minimum(np.floor(centres).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((new_size, size), np.float64)
    np.add.at(weights, (np.arange(new_size), low), 1 - (centres - low))
    np.add.at(weights, (np.arange(new_size), high), centres - low)
    return weights.astype(np.float32)


def resize_bilinear(x: jt.Var, size: tuple[int, int]) -> jt.Var:
    """Resizes N×C×H×W to `size` (height, width), as F.interpolate(align_corners=False) does.

    On the CPU these are two matrix products, one per axis, written as 1×1 convolutions over that
    axis, which are fast in both directions. A GPU has kernels of its own, because cuDNN would round
    the factors to TF32.
    """
    if on_cuda():
        return _BilinearCUDA(size)(x)
    n, c, h, w, *block = x.shape
    b = block[0] if block else 1
    height, width = size
    rows = jt.array(_bilinear_matrix(h, height)).stop_grad().reshape(height, h, 1, 1)
    columns = jt.array(_bilinear_matrix(w, width)).stop_grad().reshape(width, w, 1, 1)
    x = conv2d(x.reshape(n * c, h, w * b, 1), rows)
    x = conv2d(x.reshape(n * c * height, w, b, 1), columns)
    return x.reshape(n, c, height, width, *block)
