"""The C++ of the operators: `.h` files beside their Python, handed to Jittor as text.

Jittor compiles an operator anew when its text changes. An `#include` would hide the text from it,
and an edited file go on running as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from utils.runtime import jt

BFLOAT16 = "bfloat16"


@functools.cache
def read_header(name: str) -> str:
    """The text of `name`, a file of this folder, for the `cpu_header` of `jt.code`."""
    return Path(__file__).with_name(name).read_text("utf-8")


def code(
    shapes: Sequence, dtypes: str | list[str], inputs: Sequence[jt.Var], header: str,
    source: str,
) -> jt.Var | list[jt.Var]:
    """An operator for the CPU.

    Args:
        shapes, dtypes: of the output, or of each of several.
        inputs: in C++ `in0`, `in1` …, as outputs are `out0` …
        header: the file of the functions that `source` calls; it may rest on values.h.
        source: C++ in which {in0}, {out0} … are pointers to values of the operands' types.
    """
    outputs = dtypes if isinstance(dtypes, list) else [dtypes]
    source = _with_pointers(source, tuple(str(x.dtype) for x in inputs), tuple(map(str, outputs)))
    return jt.code(shapes, dtypes, list(inputs), cpu_src=source, cpu_header=_with_values(header))


@functools.cache  # a network predicts with a hundred operators, always the same ones
def _with_pointers(source, inputs, outputs):
    for prefix, dtypes in ("in", inputs), ("out", outputs):
        for i, dtype in enumerate(dtypes):
            # Jittor's own bfloat16 cuts off digits, see values.h.
            cast = "(values::bfloat16*)" if dtype == BFLOAT16 else ""
            source = source.replace(f"{{{prefix}{i}}}", f"{cast}{prefix}{i}_p")
    return source


@functools.cache
def _with_values(header):
    return read_header("values.h") + read_header(header)


def block_of_operand(x: jt.Var) -> int:
    """The size of a block of channels of x, 1 if it has none."""
    return x.shape[4] if x.ndim == 5 else 1
