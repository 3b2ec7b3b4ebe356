"""Operators on activations value by value. Those for bfloat16 have no gradient.

Jittor computes with bfloat16 on the CPU as well, but cuts off the digits that do not fit, so that
all results are pulled towards zero. Here each result is computed in float32, or more, and rounded
once to the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import jt
from .batch_norm import LINEAR, activate
from .layout import per_channel, shape_of
from .native import BFLOAT16, block_of_operand, code, cuda_code, on_cuda
from .sharing import current_batch
from .sums import plane_means


def add(terms: Sequence[jt.Var], slope: float = LINEAR) -> jt.Var:
    """The sum of activations of one shape, and the activation with that slope (see BatchNorm)."""
    first, *others = terms
    if not others and slope == LINEAR:
        return first
    if first.dtype == BFLOAT16:
        pointers = ", ".join(f"{{in{i}}}" for i in range(len(terms)))
        return _code(first.shape, BFLOAT16, terms,
                     f"add<{len(terms)}>(out0->num, {{{pointers}}}, {slope}, {{out0}});")
    # In this order, which rounding depends on.
    return activate(first + sum(others) if others else first, slope)


def concat(a: jt.Var, b: jt.Var) -> jt.Var:
    """The channels of a, then those of b."""
    if on_cuda() and a.dtype == b.dtype == "float32":
        return _JoinCUDA()(a, b)
    return jt.concat([a, b], 1)


def global_average(x: jt.Var) -> jt.Var:
    """Mean over height and width, N×C×1×1 in double precision."""
    if x.dtype != BFLOAT16 and not (x.ndim == 5 and jt.flags.no_grad):
        return plane_means(x)
    n, c, _, _ = shape_of(x)
    block = block_of_operand(x)
    means = _code((*x.shape[:2], block), "float64", [x],
                  f"means<{block}>(in0_shape0 * in0_shape1, in0_shape2 * in0_shape3, {{in0}}, "
                  "{out0});")
    return means.reshape(n, c, 1, 1)


def to_dtype(x: jt.Var, dtype: str) -> jt.Var:
    """Activations as float32, or as bfloat16, then rounded to the nearest."""
    if x.dtype == dtype:
        return x
    if dtype == BFLOAT16:
        return _code(x.shape, BFLOAT16, [x], "round(out0->num, {in0}, {out0});")
    return x.cast(dtype)


def bias_activated(x: jt.Var, bias: jt.Var, slope: float) -> jt.Var:
    """x plus a bias per channel, in either form, and an activation; without gradient."""
    if x.dtype != BFLOAT16:
        return activate(x + per_channel(bias, x), slope)
    block = block_of_operand(x)
    return _code(x.shape, BFLOAT16, [x, bias],
                 f"bias_activated<{block}>(in0_shape0 * in0_shape1, in0_shape1, "
                 f"in0_shape2 * in0_shape3, {{in0}}, {{in1}}, {slope}, {{out0}});")


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """Sets values to zero with that probability, and divides the others by 1 − rate."""
    kept = (current_batch().random(x.shape) >= rate).float32()
    return x * kept / (1 - rate)


def probability(logit: jt.Var) -> jt.Var:
    """The sigmoid; NaN where a logit is not a finite number.

    Jittor's sigmoid makes probabilities near 0 and 1 of NaN and infinity, and a network whose
    activations have overflowed would look like one that finds nothing.
    """
    p = jt.sigmoid(logit)
    # -Ofast, on the CPU, would fold the difference into 0.
    return p + (logit - logit).detach() if on_cuda() else _MarkLost()(p, logit)


def _code(shape, dtype, inputs, source):
    return code(shape, dtype, inputs, "elementwise.h", f"elementwise::{source}")


class _MarkLost(jt.Function):
    def execute(self, p, logit):
        return _code(p.shape, p.dtype, [p, logit],
                     "mark_lost(out0->num, {in0}, {in1}, {out0});")

    def grad(self, dy):
        return dy, None


class _JoinCUDA(jt.Function):
    def execute(self, a, b):
        self.shapes = a.shape, b.shape
        n, c, h, w = a.shape
        return self.run("join", (n, c + b.shape[1], h, w), "float32", [a, b])

    def grad(self, dy):
        return self.run("separate", list(self.shapes), ["float32"] * 2, [dy])

    def run(self, kernel, shapes, dtypes, inputs):
        parts, whole = ("in", "out0") if kernel == "join" else ("out", "in0")
        sizes = ", ".join(f"{parts}{i}->num / {parts}{i}_shape0" for i in (0, 1))
        pointers = ", ".join([f"{{in{i}}}" for i in range(len(inputs))]
                             + [f"{{out{i}}}" for i in range(3 - len(inputs))])
        return cuda_code(shapes, dtypes, inputs, "join.cuh",
                         f"LAUNCH((joining::{kernel}), blocks_for({whole}->num), {whole}->num, "
                         f"{sizes}, {pointers});")
