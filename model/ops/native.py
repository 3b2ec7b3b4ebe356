"""The C++ and CUDA of the operators, `.h` and `.cuh` files, and how Jittor gets them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
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


def by_onednn() -> bool:
    """True if operators are written for oneDNN."""
    return not on_cuda() and jt.mkl_ops is not None


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


@functools.lru_cache(maxsize=None)
def include(*names: str) -> str:
    """The line that includes files of this folder, for the `cpu_header` of `jt.code`.

    Jittor copies and compares the text of an operator each time it runs, so that text includes the
    files by name. Copies of them lie in Jittor's cache, named by the hash of their content: after
    an edit the name is another one, and the operator is compiled anew.
    """
    text = "".join(Path(__file__).with_name(name).read_text("utf-8") for name in names)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(jt.flags.cache_path, "headers", f"{digest}.h")
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    return f'#include "{path}"\n'


def code(
    shapes: Sequence, dtypes: str | list[str], inputs: Sequence[jt.Var], header: str,
    source: str,
) -> jt.Var | list[jt.Var]:
    """An operator for the CPU.

    Args:
        shapes, dtypes: shape and type of the output, or a list of each for several outputs.
        inputs: named `in0`, `in1` … in C++; the outputs are `out0` …
        header: the file of the functions that `source` calls; values.h is included before it.
        source: C++ in which {in0}, {out0} … are pointers to the operands' values.
    """
    outputs = dtypes if isinstance(dtypes, list) else [dtypes]
    source = _with_types(source, tuple(str(x.dtype) for x in inputs), tuple(map(str, outputs)))
    return jt.code(shapes, dtypes, list(inputs), cpu_src=source,
                   cpu_header=include("values.h", header))


@functools.lru_cache(maxsize=None)  # a network has a hundred operators, always the same ones
def _with_types(source, inputs, outputs):
    for prefix, dtypes in ("in", inputs), ("out", outputs):
        for i, dtype in enumerate(dtypes):
            if dtype == BFLOAT16:  # Jittor's own type cuts off digits, see values.h
                source = source.replace(f"{{{prefix}{i}}}", f"(values::bfloat16*){prefix}{i}_p")
    return _with_pointers(source)


@functools.lru_cache(maxsize=None)
def _with_pointers(source):
    return re.sub(r"{((in|out)\d+)}", r"\1_p", source)


def cuda_code(
    shapes: Sequence, dtypes: str | list[str], inputs: Sequence[jt.Var], header: str,
    source: str, data: Mapping[str, float] | None = None,
) -> jt.Var | list[jt.Var]:
    """An operator for a GPU.

    Args:
        shapes, dtypes, inputs: as in `code`, N×C×H×W in float32.
        header: the file of the kernels.
        source: C++ with a `LAUNCH(kernel, blocks, arguments);` for each kernel that is started.
        data: numbers that `source` reads as `data["name"]`; another number needs no compilation.

    In a rehearsal the name of the first output is `LAUNCHES_BYTES`: the number of kernel launches,
    and the sum of the bytes of their operands. A launch that names no operand counts as one that
    names all.
    """
    text = _with_pointers(source)
    if not _rehearsing:
        return jt.code(shapes, dtypes, list(inputs), cuda_src=text, data=dict(data or {}),
                       cuda_header=include("launch.cuh", "block.cuh", header))
    y = jt.code(shapes, dtypes, list(inputs), cpu_src=text, data=dict(data or {}),
                cpu_header=include("cuda_on_cpu.h", "block.cuh", header))
    first, *others = [y] if isinstance(y, jt.Var) else y
    operands = {f"in{i}": x for i, x in enumerate(inputs)}
    operands.update((f"out{i}", x) for i, x in enumerate([first, *others]))
    launches = re.findall(r"LAUNCH\((.*?)\);", source, re.S)
    moved = [operands[name] for launch in launches
             for name in re.findall(r"{(\w+)}", launch) or operands]
    size = sum(x.numel() * BYTES.get(str(x.dtype), 1) for x in moved)
    first.name(f"{len(launches)}_{size}")
    return y


def block_of_operand(x: jt.Var) -> int:
    """Channels per block of x; 1 if x is not in blocks."""
    return x.shape[4] if x.ndim == 5 else 1
