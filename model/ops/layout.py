"""How activations lie in memory: N×C×H×W, or on the CPU in blocks of channels, N×C/b×H×W×b.

oneDNN's fast convolutions work on blocks of b channels, where b floats fill a vector register. With
N×C×H×W, each convolution would copy its operands into blocks and back, which took more than half as
long as its arithmetic. So a network calls `enter` before its first layer and `leave` after its
last. All functions of `model` take both forms, plain (4 dimensions) and blocked (5), and return the
form that they were given.
"""

from __future__ import annotations

import ctypes
import functools

from . import jt
from .native import by_onednn

AVX2, AVX512, AMX = 0x7, 0x27, 0x3E7  # bits of dnnl_cpu_isa_t


@functools.lru_cache(maxsize=None)
def uses(instructions: int) -> bool:
    """True if oneDNN uses these instruction sets on this CPU."""
    # Jittor has loaded the library already.
    isa = ctypes.CDLL("libdnnl.so.2").dnnl_get_effective_cpu_isa()
    return isa & instructions == instructions


def widest_block() -> int:
    """Floats in a vector register of this CPU; 1 if oneDNN has no kernels for blocks here."""
    return 16 if uses(AVX512) else 8 if uses(AVX2) else 1


def has_blocks() -> bool:
    """True if the networks compute in blocks of channels here."""
    return by_onednn() and widest_block() > 1


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
    """Reshapes values per channel (C), or per image and channel (N×C×1×1), to broadcast over x."""
    n = 1 if values.ndim == 1 else values.shape[0]
    return values.reshape(n, x.shape[1], 1, 1, *x.shape[4:])
