"""The short compilation: the headers are read once, and everything computes with the same flags."""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
import sys

import pytest
from scripts import ROOT

# An operator that nobody has compiled yet, for its text has the number of this process in it.
NEW_OPERATOR = """
import os
from utils.runtime import start, jt
start("cpu")
text = "int two%d=2; for (int i=0; i<out0->num; i++) out0_p[i] = in0_p[i] * two%d;"
text %= os.getpid(), os.getpid()
print(jt.code((2,), "float32", [jt.array([1., 2.])], cpu_src=text).numpy().tolist())
print(jt.flags.cache_path, os.getpid(), sep="\\n")
"""


@pytest.fixture(scope="module")
def compiled():
    """What a new operator gave, and the words of the command that compiled it."""
    run = subprocess.run([sys.executable, "-c", NEW_OPERATOR], cwd=ROOT, text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stderr
    values, cache, process = run.stdout.splitlines()
    sources = [path for path in glob.glob(f"{glob.escape(cache)}/jit/*_op.cc")
               if f"two{process}=2;" in open(path).read()]
    assert len(sources) == 1
    key = sources[0].replace("_op.cc", "_op.so.key")
    return values, cache, shlex.split(open(key).readline())


def test_a_new_operator_is_compiled_fast_and_computes(compiled):
    values, _, words = compiled
    assert values == "[2.0, 4.0]"
    assert words[0] == "/bin/sh"  # and not Python
    assert "-Ofast" in words and "-O1" not in words


def test_its_precompiled_header_fits(compiled):
    words = compiled[2]
    compiler = words[2:]
    compiler[:1] = [re.sub("^--cc_path=", "", words[3])]
    compiler.remove(words[3])
    compiler[compiler.index("-o") + 1] = "/dev/null"
    run = subprocess.run([*compiler, "-c", "-H"], capture_output=True, text=True)
    assert re.search(r"^! .*/kernels\.h\.gch$", run.stderr, re.M), run.stderr[:2000]


def test_the_core_is_compiled_with_little_optimisation(compiled):
    keys = glob.glob(f"{glob.escape(compiled[1])}/obj_files/*.o.key")
    commands = [open(key).readline() for key in keys]
    assert len(commands) > 100
    levels = {re.findall("/core(-O[01]).h", command)[0] for command in commands}
    assert levels == {"-O0", "-O1"}
    assert all(len(re.findall(r" (-O\S+) ", command)) == 1 for command in commands)
