"""2×2 max-pool. As in PyTorch, the first of equal values gets the gradient."""

from __future__ import annotations

from . import jt
from .native import code, cuda_code, on_cuda


def _shape(operand: str) -> str:
    """The shape of an operand in blocks of channels, for the functions of pool.h."""
    return f"{{{operand}_shape0 * {operand}_shape1, {operand}_shape2, {operand}_shape3}}"


class _MaxPoolCPU(jt.Function):
    """2×2 max-pool of activations in blocks of channels."""

    def execute(self, x):
        n, groups, h, w, b = self.shape = x.shape
        y, self.taken = code(
            [(n, groups, h // 2, w // 2, b)] * 2, [x.dtype, "int8"], [x], "pool.h",
            f"pool::largest<{b}>({_shape('in0')}, {{in0}}, {_shape('out0')}, {{out0}}, {{out1}});",
        )
        return y

    def grad(self, dy):
        return code(
            self.shape, dy.dtype, [dy, self.taken], "pool.h",
            f"pool::gradient<{self.shape[4]}>({_shape('in0')}, {{in0}}, {{in1}}, "
            f"{_shape('out0')}, {{out0}});",
        )


class _MaxPoolCUDA(jt.Function):
    def execute(self, x):
        n, c, h, w = self.shape = x.shape
        y, self.taken = cuda_code(
            [(n, c, h // 2, w // 2)] * 2, ["float32", "int8"], [x], "pool.cuh",
            "LAUNCH((pool::largest), blocks_for(out0->num), out0->num, in0_shape2, in0_shape3, "
            "{in0}, {out0}, {out1});")
        return y

    def grad(self, dy):
        return cuda_code(
            self.shape, "float32", [dy, self.taken], "pool.cuh",
            "LAUNCH((pool::gradient), blocks_for(out0->num), out0->num, out0_shape2, out0_shape3, "
            "{in0}, {in1}, {out0});")


def max_pool2x2(x: jt.Var) -> jt.Var:
    """The largest of each 2×2 square, N×C×H×W → N×C×H/2×W/2, in either form."""
    h, w = x.shape[2:4]
    if x.ndim == 5 and not jt.flags.no_grad:
        return _MaxPoolCPU()(x)
    if x.ndim == 5:
        n, groups, _, _, b = x.shape
        return code((n, groups, h // 2, w // 2, b), x.dtype, [x], "pool.h",
                    f"pool::largest<{b}>({_shape('in0')}, {{in0}}, {_shape('out0')}, {{out0}});")
    if on_cuda() and x.dtype == "float32":
        return _MaxPoolCUDA()(x)
    # Jittor's pooling refuses an input of the size of its kernel.
    if h == 2:
        return max_pool2x2(jt.concat([x, x], 2))[:, :, :1]
    if w == 2:
        return max_pool2x2(jt.concat([x, x], 3))[:, :, :, :1]
    return jt.pool.Pool(2, 2, op="maximum")(x)
