"""What is done to activations value by value, in float32 and in bfloat16.

Jittor computes with bfloat16 on the CPU as well, but cuts off the digits that do not fit, and adds
up the gradients of an activation that is used several times one after the other: all results are
pulled towards zero. Here each is computed in float32, or more, and rounded once to the nearest.
In float32, on the CPU, all of these but `probability` are Jittor's own operators.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.ops.batch_norm import LINEAR, activate
from model.ops.layout import shape_of
from model.ops.native import BFLOAT16, block_of_operand, code, cuda_code, on_cuda
from model.ops.sums import add_channel_bias, plane_means
from utils.runtime import jt


def add(terms: Sequence[jt.Var], slope: float = LINEAR) -> jt.Var:
    """The sum of activations of one shape, and the activation with that slope (see BatchNorm)."""
    first, *others = terms
    if first.dtype == BFLOAT16:
        unchanged = not others and slope == LINEAR
        return first if unchanged else _Add([1] * len(terms), slope)(*terms)
    # In an order of its own, which rounding depends on.
    return activate(first + sum(others) if others else first, slope)


def subtract(a: jt.Var, b: jt.Var) -> jt.Var:
    """a − b."""
    return _Add([1, -1])(a, b) if a.dtype == BFLOAT16 else a - b


def share(x: jt.Var, uses: int) -> list[jt.Var]:
    """`x` so many times: once for each use, so that their gradients are added up at once."""
    return list(_Share(uses)(x)) if x.dtype == BFLOAT16 else [x] * uses


def join(a: jt.Var, b: jt.Var) -> jt.Var:
    """The channels of a, then those of b."""
    if on_cuda() and a.dtype == b.dtype == "float32":
        return _JoinCUDA()(a, b)
    return _Join()(a, b) if a.dtype == BFLOAT16 and a.ndim == 5 else jt.concat([a, b], 1)


def add_bias(x: jt.Var, bias: jt.Var) -> jt.Var:
    """x + bias, one a channel; its gradient, a sum over all pixels, in double precision."""
    if x.dtype == BFLOAT16:
        return _AddBias()(x, bias)
    return add_channel_bias(x, bias)


def global_average(x: jt.Var) -> jt.Var:
    """Mean over height and width, N×C×1×1 in double precision."""
    n, c, _, _ = shape_of(x)
    return _GlobalAverage()(x).reshape(n, c, 1, 1) if x.dtype == BFLOAT16 else plane_means(x)


def to_float32(x: jt.Var) -> jt.Var:
    """Activations in float32, for what follows to be computed in it."""
    return _ToFloat32()(x) if x.dtype == BFLOAT16 else x


def probability(logit: jt.Var) -> jt.Var:
    """The sigmoid; NaN where a logit is not a finite number.

    Jittor's makes probabilities near 0 and 1 of NaN and infinity, and a network whose activations
    have overflowed would look as one that finds nothing.
    """
    p = jt.sigmoid(logit)
    # -Ofast, on the CPU, would fold the difference into 0.
    return p + (logit - logit).detach() if on_cuda() else _MarkLost()(p, logit)


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


# ------------------------------------------------------------------------------------- bfloat16


def _code(shape, dtype, inputs, source):
    return code(shape, dtype, inputs, "elementwise.h", f"elementwise::{source}")


def _rows(operand):
    """C++: N, G and the number of pixels of activations."""
    return f"{operand}_shape0, {operand}_shape1, {operand}_shape2 * {operand}_shape3"


def _sum(terms, signs, slope=LINEAR):
    pointers = ", ".join(f"{{in{i}}}" for i in range(len(terms)))
    return _code(terms[0].shape, BFLOAT16, terms,
                 f"add<{len(terms)}>(out0->num, {{{pointers}}}, "
                 f"{{{', '.join(map(str, signs))}}}, {slope}, {{out0}});")


class _Add(jt.Function):
    """Σ sign·term, and the activation with that slope of it."""

    def __init__(self, signs, slope=LINEAR):
        self.signs, self.slope = signs, slope

    def execute(self, *terms):
        self.y = _sum(terms, self.signs, self.slope)
        return self.y

    def grad(self, dy):
        if self.slope != LINEAR:
            dy = _code(dy.shape, BFLOAT16, [self.y, dy],
                       f"gradient(out0->num, {{in0}}, {{in1}}, {self.slope}, {{out0}});")
        return tuple(dy if sign > 0 else _sum([dy], [sign]) for sign in self.signs)


class _Share(jt.Function):
    def __init__(self, uses):
        self.uses = uses

    def execute(self, x):
        return [x] * self.uses

    def grad(self, *gradients):
        gradients = [gradient for gradient in gradients if gradient is not None]
        return gradients[0] if len(gradients) == 1 else _sum(gradients, [1] * len(gradients))


class _Join(jt.Function):
    """Faster than Jittor's, which fills the result piece by piece."""

    def execute(self, a, b):
        self.groups = a.shape[1]
        n, _, *rest = a.shape
        values = " * ".join(f"in0_shape{axis}" for axis in (2, 3, 4))
        return _code((n, self.groups + b.shape[1], *rest), BFLOAT16, [a, b],
                     f"join(in0_shape0, in0_shape1, in1_shape1, {values}, {{in0}}, {{in1}}, "
                     "{out0});")

    def grad(self, dy):
        return dy[:, : self.groups], dy[:, self.groups :]


class _AddBias(jt.Function):
    def execute(self, x, bias):
        block = block_of_operand(x)
        return _code(x.shape, BFLOAT16, [x, bias],
                     f"add_bias<{block}>({_rows('in0')}, {{in0}}, {{in1}}, {{out0}});")

    def grad(self, dy):
        return dy, _sums(dy, "1").sum(0).reshape(-1).float32()


class _GlobalAverage(jt.Function):
    def execute(self, x):
        self.shape, self.block = x.shape, block_of_operand(x)
        return _sums(x, _share_of_pixel("in0"))

    def grad(self, dy):
        return _code(self.shape, BFLOAT16, [dy.float64()],
                     f"spread<{self.block}>({_rows('out0')}, {{in0}}, "
                     f"{_share_of_pixel('out0')}, {{out0}});")


def _share_of_pixel(operand):
    """C++: what one pixel adds to a mean. (As a number it would make an operator for each size.)"""
    return f"1. / ({operand}_shape2 * {operand}_shape3)"


def _sums(x, scale):
    """Over the pixels of each image and channel, times `scale` (C++), N×G×b in double precision."""
    block = block_of_operand(x)
    return _code((*x.shape[:2], block), "float64", [x],
                 f"sums<{block}>({_rows('in0')}, {{in0}}, {scale}, {{out0}});")


class _ToFloat32(jt.Function):
    def execute(self, x):
        return x.float32()

    def grad(self, dy):
        return _code(dy.shape, BFLOAT16, [dy], "round(out0->num, {in0}, {out0});")
