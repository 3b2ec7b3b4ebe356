"""The C++ and CUDA of the operators: `.h` and `.cuh` files, handed to Jittor as text.

Jittor compiles an operator anew when its text changes. An `#include` would hide the text from it,
and an edited file go on running as it was.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import jt

BFLOAT16 = "bfloat16"
BYTES = {"float32": 4, "float64": 8}

_rehearsing = False


def on_cuda() -> bool:
    """True if operators are written for a GPU."""
    return _rehearsing or bool(jt.flags.use_cuda)


@contextlib.contextmanager
def rehearse_cuda() -> Iterator[None]:
    """Writes operators as for a GPU, on a machine without one; their kernels run on the CPU.

    Convolutions are computed by oneDNN; there are as many operators as with cuDNN.
    """
    global _rehearsing
    _rehearsing = True
    try:
        yield
    finally:
        _rehearsing = False


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


def cuda_code(
    shapes: Sequence, dtypes: str | list[str], inputs: Sequence[jt.Var], header: str,
    source: str, data: Mapping[str, float] | None = None,
) -> jt.Var | list[jt.Var]:
    """An operator for a GPU.

    Args:
        shapes, dtypes, inputs: as in `code`, N×C×H×W in float32.
        header: the file of the kernels.
        source: C++ with a `LAUNCH(kernel, blocks, arguments);` for each kernel that is started.
        data: numbers that are `data["name"]` in `source`; they may change without a compilation.

    In a rehearsal the first output is named `LAUNCHES_BYTES`: the number of kernel launches, and
    the bytes of their operands, added up over the launches. A launch that names no operand counts
    all of them.
    """
    outputs = dtypes if isinstance(dtypes, list) else [dtypes]
    text = _with_pointers(source, tuple(str(x.dtype) for x in inputs), tuple(map(str, outputs)))
    if not _rehearsing:
        return jt.code(shapes, dtypes, list(inputs), cuda_src=text, data=dict(data or {}),
                       cuda_header=_cuda_header("launch.cuh", header))
    y = jt.code(shapes, dtypes, list(inputs), cpu_src=text, data=dict(data or {}),
                cpu_header=_cuda_header("cuda_on_cpu.h", header))
    first, *others = [y] if isinstance(y, jt.Var) else y
    operands = {f"in{i}": x for i, x in enumerate(inputs)}
    operands.update((f"out{i}", x) for i, x in enumerate([first, *others]))
    launches = re.findall(r"LAUNCH\((.*?)\);", source, re.S)
    moved = [operands[name] for launch in launches
             for name in re.findall(r"{(\w+)}", launch) or operands]
    size = sum(x.numel() * BYTES.get(str(x.dtype), 1) for x in moved)
    first.name(f"{len(launches)}_{size}")
    return y


@functools.cache
def _cuda_header(base, header):
    return "".join(map(read_header, (base, "block.cuh", header)))


def block_of_operand(x: jt.Var) -> int:
    """The size of a block of channels of x, 1 if it has none."""
    return x.shape[4] if x.ndim == 5 else 1
