"""How activations lie in memory: N×C×H×W, or on the CPU in blocks of channels, N×C/b×H×W×b.

oneDNN's fast convolutions work on blocks of b channels, b being what fits into a vector register.
If activations were kept as N×C×H×W, each convolution would bring them into blocks and back, which
took longer than half of its arithmetic. So the networks `enter` blocks at their first layer and
`leave` them after the last. All functions of `model` take both forms, told apart by their
dimensions, and give back the form they were given.
"""

from __future__ import annotations

import ctypes
import functools

from . import jt
from .native import on_cuda

AVX2, AVX512 = 0x7, 0x27  # bits of dnnl_cpu_isa_t


@functools.cache
def widest_block() -> int:
    """Floats in a vector register of this CPU, by oneDNN; 1 if it has no kernels for blocks."""
    # Jittor has loaded it; the bits are those of dnnl_cpu_isa_t.
    isa = ctypes.CDLL("libdnnl.so.2").dnnl_get_effective_cpu_isa()
    return 16 if isa & AVX512 == AVX512 else 8 if isa & AVX2 == AVX2 else 1


def has_blocks() -> bool:
    """Whether blocks of channels are the better form here."""
    return not on_cuda() and jt.mkl_ops is not None and widest_block() > 1


def block_of(channels: int) -> int:
    """Block size for C channels: the vector width if it divides C, else C."""
    return widest_block() if channels % widest_block() == 0 else channels


def enter(x: jt.Var) -> jt.Var:
    """N×C×H×W → the form in which the network computes."""
    if not has_blocks():
        return x
    n, c, h, w = x.shape
    b = block_of(c)
    return x.reshape(n, c // b, b, h, w).permute(0, 1, 3, 4, 2)


def leave(x: jt.Var) -> jt.Var:
    """Either form → N×C×H×W."""
    if x.ndim == 4:
        return x
    n, c, h, w = shape_of(x)
    return x.permute(0, 1, 4, 2, 3).reshape(n, c, h, w)


def shape_of(x: jt.Var) -> tuple[int, int, int, int]:
    """N, C, H, W of either form."""
    n, groups, h, w = x.shape[:4]
    return n, groups * (x.shape[4] if x.ndim == 5 else 1), h, w


def shape_like(x: jt.Var, n: int, c: int, h: int, w: int) -> tuple[int, ...]:
    """The shape of N×C×H×W values in the form of x."""
    return (n, c, h, w) if x.ndim == 4 else (n, c // block_of(c), h, w, block_of(c))


def per_channel(values: jt.Var, x: jt.Var) -> jt.Var:
    """Values of each channel (C), or of each image and channel (N×C×1×1), to broadcast over x."""
    n = 1 if values.ndim == 1 else values.shape[0]
    return values.reshape(n, x.shape[1], 1, 1, *x.shape[4:])
