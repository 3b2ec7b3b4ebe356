"""Makes Jittor's compilations short: the first start, and the first run of each operator.

What Jittor and its operators compute stays the same. Most of each compilation goes into reading the
same headers, so they are read once (precompiled headers of g++; another compiler reads them as
always). Jittor's core, which builds graphs and calls what computes, is compiled with -O1, and with
-O0 what is seldom called; oneDNN and the operators, which compute, are as they were.

Objects made so differ from those that a bare `import jittor` makes, and each would make the other's
anew: `CACHE_NAME` keeps them in a folder of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from utils.files import atomic_path, write_text
from utils.runtime.commands import rewritten

CACHE_NAME = "l2sknet"

# The passes over an operator before it is compiled, and Jittor's tests.
_SELDOM = re.compile("/src/(opt|test)/")

# Read before a file's own definitions, of which only JIT, that every operator has, concerns them.
_CORE = """
#include <algorithm>
#include <fstream>
#include <sstream>
#include <unordered_set>
#include "executor.h"
#include "fused_op.h"
#include "op_compiler.h"
#include "ops/op_register.h"
#include "pyjt/py_arg_printer.h"
#include "pyjt/py_converter.h"
#include "pyjt/py_obj_holder.h"
#include "utils/str_utils.h"
#include "var_holder.h"
"""
_KERNELS = """
#define JIT 1
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>
#if __has_include(<dnnl.hpp>)
#include <dnnl.hpp>
#endif
#include "executor.h"
#include "fused_op.h"
#include "misc/cpu_math.h"
#include "misc/cuda_flags.h"
#include "ops/array_op.h"
#include "ops/binary_op.h"
#include "ops/broadcast_to_op.h"
#include "ops/code_op.h"
#include "ops/op_register.h"
#include "ops/reduce_op.h"
#include "ops/ternary_op.h"
#include "ops/unary_op.h"
#include "type/fp16_compute.h"
#include "var.h"
"""
# Jittor calls: THIS .../asm_tuner.py --cc_path=COMPILER ARGUMENTS
# Its asm_tuner starts Python, compiles with -g and runs the assembler apart, all for a pass over
# assembly that is off. The compiler alone makes the same code.
_COMPILE = """#!/bin/sh
shift
compiler=${1#--cc_path=}
shift
exec "$compiler" "$@"
"""


@contextlib.contextmanager
def quick_core() -> Iterator[None]:
    """While Jittor is imported: its C++ is hardly optimised, and has precompiled headers."""
    import jittor_utils

    made = []

    def quicken(commands, cache_path):
        quick, needed = [], {}
        for command in commands:
            if command.startswith(f'"{jittor_utils.cc_path}" ') and " -O2 " in command:
                level = "-O0" if _SELDOM.search(shlex.split(command)[1]) else "-O1"
                header = Path(cache_path, "headers", f"core{level}.h")
                if not header.is_file():
                    write_text(header, _CORE)
                command = command.replace(" -O2 ", f' {level} -include"{header}" ')
                if not Path(shlex.split(command)[-1]).is_file():
                    needed[header] = command
            quick.append(command)
        with ThreadPoolExecutor() as threads:
            made.extend(threads.map(lambda header: _precompile(
                header, jittor_utils.cc_path, needed[header]), needed))
        return quick

    try:
        with rewritten(quicken):
            yield
    finally:
        for path in made:  # 90 MB each that are not needed again
            path.unlink(missing_ok=True)


def quicken_kernels(jittor: ModuleType, onednn: Path) -> None:
    """The operators for the CPU that are compiled from now on need a third of the time.

    Args:
        onednn: its folder with include/, which need not exist.
    """
    flags = jittor.flags
    if flags.cc_type != "g++":
        return
    options = f'{flags.cc_flags} -I"{onednn / "include"}"'
    header = Path(flags.cache_path, "headers", _digest(options, flags.jittor_path), "kernels.h")
    script = header.with_name("compile.sh")  # not of this folder: another clone shares what is made
    for path, text in (header, _KERNELS), (script, _COMPILE):
        if not path.is_file():
            write_text(path, text)
    if not header.with_name("kernels.h.gch").is_file():
        _precompile(header, flags.cc_path, options)
    flags.cc_flags += f' -include"{header}" '
    flags.python_path = f'/bin/sh "{script}"'


def _precompile(header, compiler, command):
    """Reads a header once for all compilations with the options of `command`; returns the result.

    Without it, or where it does not fit, g++ reads the header itself, and that takes longer.
    """
    options = [word for word in shlex.split(command) if word.startswith("-")
               and word not in ("-c", "-o", "-shared")
               and not word.startswith(("-l", "-L", "-Wl,", "-include"))]
    made = header.with_name(f"{header.name}.gch")
    failures = OSError, subprocess.CalledProcessError
    with contextlib.suppress(*failures), atomic_path(made) as temporary:
        subprocess.run([compiler, *options, "-x", "c++-header", header, "-o", temporary],
                       capture_output=True, check=True)
    return made


def _digest(options, jittor_path):
    """Names what a precompiled header is made of; g++ does not look whether that has changed."""
    headers = sorted(Path(jittor_path, "src").rglob("*.h"))
    state = [(path.name, path.stat().st_mtime_ns) for path in headers]
    return hashlib.sha256(repr((options, _KERNELS, _COMPILE, state)).encode()).hexdigest()[:16]
