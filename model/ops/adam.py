"""Adam's update on a GPU: one kernel for up to 32 parameters, not two for each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from . import jt
from .native import cuda_code

_AT_ONCE = 32  # AT_ONCE of adam.cuh
_NAMES = ("share1", "decay2", "share2", "eps", "step_size", "correction")


def updated(
    parameters: Sequence[jt.Var], gradients: Sequence[jt.Var],
    moments: Sequence[tuple[jt.Var, jt.Var]], betas: tuple[float, float], eps: float,
    step_size: float, correction: float,
) -> Iterator[tuple[jt.Var, jt.Var, jt.Var]]:
    """Yields new value, first and second moment per parameter, on a GPU.

    Args:
        moments: first and second moment per parameter.
        step_size: lr/(1−β1ᵗ).
        correction: √(1−β2ᵗ).
    """
    beta1, beta2 = betas
    data = dict(zip(_NAMES, (1 - beta1, beta2, 1 - beta2, eps, step_size, correction)))
    rows = list(zip(parameters, gradients, *zip(*moments)))
    for start in range(0, len(rows), _AT_ONCE):
        chosen = rows[start : start + _AT_ONCE]
        shapes = [row[0].shape for row in chosen for _ in range(3)]
        new = cuda_code(shapes, ["float32"] * len(shapes), [x for row in chosen for x in row],
                        "adam.cuh", _source(len(chosen)), data)
        yield from (tuple(new[i : i + 3]) for i in range(0, len(new), 3))


@functools.lru_cache(maxsize=None)
def _source(count):
    """C++ that updates `count` parameters."""
    tensors = ", ".join(
        "{" + ", ".join([f"{{in{4 * i + k}}}" for k in range(4)]
                        + [f"{{out{3 * i + k}}}" for k in range(3)] + [f"in{4 * i}->num"]) + "}"
        for i in range(count))
    settings = ", ".join(f'float(data["{name}"])' for name in _NAMES)
    return (f"const adam::Tensors all = {{{{{tensors}}}}};\n"
            f"const int count = {count}, segments = adam::segments(all, count);\n"
            f"const adam::Settings settings = {{{settings}}};\n"
            "LAUNCH((adam::update), count * segments, all, segments, settings);")
