"""Operators value by value, the mean of a plane, and joining channels. bfloat16 has no gradients.

Jittor's own bfloat16 on the CPU cuts off the digits that do not fit, which pulls all results
towards zero. Here a result is computed in float32 or float64, and rounded once to the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import jt
from .batch_norm import LINEAR, activate
from .layout import per_channel, shape_of
from .native import BFLOAT16, block_of_operand, code, cuda_code, on_cuda
from .sharing import current_batch
from .sums import PlaneMeansCUDA


def add(terms: Sequence[jt.Var], slope: float = LINEAR) -> jt.Var:
    """Adds arrays of one shape, then applies the activation of that slope (see `BatchNorm`)."""
    first, *others = terms
    if not others and slope == LINEAR:
        return first
    if first.dtype == BFLOAT16:
        pointers = ", ".join(f"{{in{i}}}" for i in range(len(terms)))
        return _code(first.shape, BFLOAT16, terms,
                     f"add<{len(terms)}>(out0->num, {{{pointers}}}, {slope}, {{out0}});")
    # The order of the additions decides the rounding.
    return activate(first + sum(others) if others else first, slope)


def concat(a: jt.Var, b: jt.Var) -> jt.Var:
    """Joins N×A×H×W and N×B×H×W to N×(A+B)×H×W, in either form."""
    return _Join()(a, b)


def global_average(x: jt.Var) -> jt.Var:
    """Mean over height and width, N×C×1×1 in double precision."""
    n, c, _, _ = shape_of(x)
    if on_cuda() and x.dtype == "float32":
        return PlaneMeansCUDA()(x)
    if x.dtype != BFLOAT16 and not (x.ndim == 5 and jt.flags.no_grad):
        return x.float64().mean((2, 3), keepdims=True).reshape(n, c, 1, 1)
    block = block_of_operand(x)
    means = _code((*x.shape[:2], block), "float64", [x],
                  f"means<{block}>(in0_shape0 * in0_shape1, in0_shape2 * in0_shape3, {{in0}}, "
                  "{out0});")
    return means.reshape(n, c, 1, 1)


def to_bfloat16(x: jt.Var) -> jt.Var:
    """Rounds float32 to the nearest bfloat16."""
    return _code(x.shape, BFLOAT16, [x], "round(out0->num, {in0}, {out0});")


def bias_activated(x: jt.Var, bias: jt.Var, slope: float) -> jt.Var:
    """x plus a bias per channel, in either form, and an activation; without gradient."""
    if x.dtype != BFLOAT16:
        return activate(x + per_channel(bias, x), slope)
    block = block_of_operand(x)
    return _code(x.shape, BFLOAT16, [x, bias],
                 f"bias_activated<{block}>(in0_shape0 * in0_shape1, in0_shape1, "
                 f"in0_shape2 * in0_shape3, {{in0}}, {{in1}}, {slope}, {{out0}});")


def weighted_channels(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
    """1×1 convolution of bfloat16 in blocks with `weight`, 1×C×1×1, plus a bias: one channel,
    float32; without gradient."""
    n, _, h, w, block = x.shape
    return _code((n, 1, h, w, 1), "float32", [x, weight, bias],
                 f"weighted_channels<{block}>(in0_shape0, in0_shape1, in0_shape2 * in0_shape3, "
                 "{in0}, {in1}, {in2}, {out0});")


def dropout(x: jt.Var, rate: float) -> jt.Var:
    """Sets values to zero with probability `rate`, and divides the others by 1 − rate."""
    kept = (current_batch().random(x.shape) >= rate).float32()
    return x * kept / (1 - rate)


def probability(logit: jt.Var) -> jt.Var:
    """The sigmoid; NaN where a logit is not a finite number.

    Jittor's sigmoid turns NaN and infinity into probabilities near 0 and 1, so a network whose
    activations have overflowed would look as if it found nothing.
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


class _Join(jt.Function):
    def execute(self, a, b):
        self.shapes = a.shape, b.shape
        n, c, *rest = a.shape
        return self.run("join", (n, c + b.shape[1], *rest), a.dtype, [a, b])

    def grad(self, dy):
        return self.run("separate", list(self.shapes), [dy.dtype] * 2, [dy])

    def run(self, name, shapes, dtypes, inputs):
        parts, whole = ("in", "out0") if name == "join" else ("out", "in0")
        sizes = ", ".join(f"{parts}{i}->num / {parts}{i}_shape0" for i in (0, 1))
        pointers = ", ".join([f"{{in{i}}}" for i in range(len(inputs))]
                             + [f"{{out{i}}}" for i in range(3 - len(inputs))])
        if not on_cuda():
            return _code(shapes, dtypes, inputs, f"{name}({whole}_shape0, {sizes}, {pointers});")
        return cuda_code(shapes, dtypes, inputs, "join.cuh",
                         f"LAUNCH((joining::{name}), blocks_for({whole}->num), {whole}->num, "
                         f"{sizes}, {pointers});")
