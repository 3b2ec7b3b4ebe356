"""Shortens the first start of Jittor and the first run of each operator.

g++ spends most of its time on headers, so it reads them once and keeps them precompiled. Jittor's
core builds graphs and calls operators: -O1 is enough for it. oneDNN and the operators compute; they
keep their flags and their results.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from utils.files import atomic_path, write_text
from utils.runtime.commands import rewritten

# A cache folder of our own. Jittor compiles an object anew when its command has changed: in one
# folder, a bare `import jittor` and this project would recompile each other's objects.
CACHE_NAME = "l2sknet-quick"

_CORE = """<algorithm> <fstream> <sstream> <unordered_set> "executor.h" "fused_op.h" "op_compiler.h"
    "ops/op_register.h" "pyjt/py_arg_printer.h" "pyjt/py_converter.h" "pyjt/py_obj_holder.h"
    "utils/str_utils.h" "var_holder.h" """.split()
_KERNELS = """<algorithm> <cassert> <cmath> <cstdint> <cstring> <limits> <string> <unordered_map>
    <vector> "executor.h" "fused_op.h" "misc/cpu_math.h" "misc/cuda_flags.h" "ops/array_op.h"
    "ops/binary_op.h" "ops/broadcast_to_op.h" "ops/code_op.h" "ops/op_register.h" "ops/reduce_op.h"
    "ops/ternary_op.h" "ops/unary_op.h" "type/fp16_compute.h" "var.h" """.split()


def _includes(headers):
    return "".join(f"#include {header}\n" for header in headers)


@contextlib.contextmanager
def quick_core() -> Iterator[None]:
    """Makes Jittor compile its core with -O1 and a precompiled header while it is imported."""
    import jittor_utils

    compiler = f'"{jittor_utils.cc_path}" '
    header = Path(jittor_utils.cache_path, "headers", "core.h")

    def quicken(commands: list[str], _: str) -> list[str]:
        quick = [command.replace(" -O2 ", f' -O1 -include"{header}" ')
                 if command.startswith(compiler) else command for command in commands]
        to_do = [new for old, new in zip(commands, quick)
                 if new != old and not Path(shlex.split(new)[-1]).is_file()]
        if to_do and not _precompiled(header).is_file():
            write_text(header, _includes(_CORE))
            _precompile(header, jittor_utils.cc_path, to_do[0])
        return quick

    try:
        with rewritten(quicken):
            yield
    finally:
        _precompiled(header).unlink(missing_ok=True)  # 90 MB that are not needed again


def quick_kernels(jittor: ModuleType, onednn: Path) -> None:
    """Makes Jittor compile operators for the CPU with a precompiled header from now on.

    Args:
        onednn: the folder that holds oneDNN's include/.
    """
    flags = jittor.flags
    if flags.cc_type != "g++":
        return
    # Jittor's asm_tuner adds -g, and a precompiled header has to be made with the same options.
    options = f'{flags.cc_flags} -I"{onednn / "include"}" -g'
    headers = sorted(Path(flags.jittor_path, "src").rglob("*.h"))
    state = [(path.name, path.stat().st_mtime_ns) for path in headers]  # g++ does not check it
    digest = hashlib.sha256(repr((options, _KERNELS, state)).encode()).hexdigest()[:16]
    header = Path(flags.cache_path, "headers", digest, "kernels.h")
    if not header.is_file():
        write_text(header, "#define JIT 1\n" + _includes(_KERNELS)
                   + "#if __has_include(<dnnl.hpp>)\n#include <dnnl.hpp>\n#endif\n")
    if not _precompiled(header).is_file():
        _precompile(header, flags.cc_path, options)
    flags.cc_flags += f' -include"{header}" '


def _precompiled(header):
    return header.with_name(f"{header.name}.gch")


def _precompile(header, compiler, command):
    """Precompiles a header with the options of a command; if that fails, g++ reads it each time."""
    options = [word for word in shlex.split(command) if word.startswith("-")
               and word not in ("-c", "-o", "-shared")
               and not word.startswith(("-l", "-L", "-Wl,", "-include"))]
    with contextlib.suppress(OSError, subprocess.CalledProcessError), atomic_path(
            _precompiled(header)) as temporary:
        subprocess.run([compiler, *options, "-x", "c++-header", header, "-o", temporary],
                       capture_output=True, check=True)
