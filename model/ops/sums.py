"""Sums over pixels in double precision: per plane, per channel, and for the loss.

On a GPU each is two kernels: one sums segments of 4096 values, the other adds up the segments'
sums in a fixed order.
"""

from __future__ import annotations

from . import jt
from .layout import per_channel
from .native import cuda_code, on_cuda

_PLANES = "const Planes planes(in0_shape0 * in0_shape1, in0_shape2 * in0_shape3);\n"
_SEGMENT = 4096  # of block.cuh


def segments_of(x: jt.Var) -> int:
    """Number of segments of all planes of x, N×C×H×W."""
    n, c, h, w = x.shape
    return n * c * -(-(h * w) // _SEGMENT)


class PlaneMeansCUDA(jt.Function):
    """Mean over height and width, N×C×H×W float32 → N×C×1×1 float64."""

    def execute(self, x: jt.Var) -> jt.Var:
        self.shape = x.shape
        n, c, _, _ = x.shape
        y, _ = cuda_code(
            [(n, c, 1, 1), (segments_of(x),)], ["float64"] * 2, [x], "sums.cuh", _PLANES +
            "LAUNCH((sums::of_segments), planes.blocks(), planes, {in0}, {out1});\n"
            "LAUNCH((sums::of_planes), planes.count, planes, {out1}, 1. / planes.size, {out0});")
        return y

    def grad(self, dy: jt.Var) -> jt.Var:
        n, c, h, w = self.shape
        return (dy / (h * w)).float32().broadcast([n, c, h, w])


def _channel_sums(x):
    """Per-channel sums of N×C×H×W on a GPU, C float32."""
    y, _ = cuda_code(
        [(x.shape[1],), (segments_of(x),)], ["float32", "float64"], [x], "sums.cuh", _PLANES +
        "LAUNCH((sums::of_segments), planes.blocks(), planes, {in0}, {out1});\n"
        "LAUNCH((sums::of_channels), in0_shape1, planes, in0_shape0, in0_shape1, {out1}, {out0});")
    return y


class _AddBiasCUDA(jt.Function):
    def execute(self, bias, *terms):
        self.terms = len(terms)
        return sum(terms[1:], terms[0]) + per_channel(bias, terms[0])

    def grad(self, dy):
        return [_channel_sums(dy), *[dy] * self.terms]


def add_bias_on_gpu(bias: jt.Var, *terms: jt.Var) -> jt.Var:
    """Σ terms, N×C×H×W float32, plus a bias per channel, on a GPU."""
    return _AddBiasCUDA()(bias, *terms)


def add_channel_bias(x: jt.Var, bias: jt.Var) -> jt.Var:
    """x + bias; the gradient of the bias, a sum over all pixels, is added up in float64."""
    if on_cuda() and x.dtype == "float32":
        return add_bias_on_gpu(bias, x)
    return (x.float64() + per_channel(bias.float64(), x)).astype(x.dtype)


class _OverlapCUDA(jt.Function):
    def execute(self, p, g):
        self.saved = p, g
        y, _ = cuda_code(
            [(3,), (segments_of(p), 3)], ["float64"] * 2, [p, g], "sums.cuh", _PLANES +
            "LAUNCH((sums::of_overlap), planes.blocks(), planes, {in0}, {in1}, {out1});\n"
            "LAUNCH((sums::of_all), 1, planes.blocks(), {out1}, {out0});")
        return y

    def grad(self, dy):
        p, g = self.saved
        return self._gradient(g, dy, 1), self._gradient(p, dy, 2)

    @staticmethod
    def _gradient(other, dy, own):
        return cuda_code(
            other.shape, "float32", [other, dy], "sums.cuh",
            "LAUNCH((sums::overlap_gradient), blocks_for(in0->num), in0->num, {in0}, {in1}, "
            f"{own}, {{out0}});")


def overlap_sums(p: jt.Var, g: jt.Var) -> jt.Var:
    """Σp·g, Σp and Σg over N×1×H×W, as an array of 3 float64."""
    if on_cuda() and p.dtype == g.dtype == "float32":
        return _OverlapCUDA()(p, g)
    p, g = p.float64(), g.float64()
    return jt.concat([(p * g).sum(), p.sum(), g.sum()])
