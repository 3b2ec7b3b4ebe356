"""Starting Jittor: in processes of their own, as scripts do it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from scripts import ROOT

from utils import runtime
from utils.errors import UserError
from utils.runtime import boot, cuda, onednn

FOLDER = ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"


def python(code, **variables):
    """Runs code in a new process; a variable that is None is removed."""
    env = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, text=True,
                          capture_output=True)


# One process that does what a user may do, and tells what came of it.
SESSION = """
import glob, json, os, re, shlex, signal, subprocess, sys, time
from utils.errors import UserError
from utils.runtime import boot, on_gpu, set_seed, start

def told(*arguments):
    try:
        start(*arguments)
    except UserError as error:
        return str(error)

facts = {"gpu before": on_gpu()}
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
bits, boot.AVX512_BF16 = boot.AVX512_BF16, 1 << 40
facts["bf16"] = told("cpu", "bf16")
boot.AVX512_BF16 = bits
from utils.runtime import jt

# A text with the number of a process in it, which nobody has compiled yet.
name = "two%d" % os.getpid()
text = f"int {name}=2; for (int i=0; i<out0->num; i++) out0_p[i] = in0_p[i] * {name};"
facts["numbers"] = jt.code((2,), "float32", [jt.array([1., 2.])], cpu_src=text).numpy().tolist()
sources = glob.glob(glob.escape(jt.flags.cache_path) + "/jit/*_op.cc")
source, = (path for path in sources if name in open(path).read())
words = shlex.split(open(source.replace("_op.cc", "_op.so.key")).readline())
compiler, = (index for index, word in enumerate(words) if word.startswith("--cc_path="))
command = [words[compiler][len("--cc_path="):], *words[compiler + 1:]]
command[command.index("-o") + 1] = "/dev/null"
read = subprocess.run([*command, "-c", "-g", "-H"], capture_output=True, text=True).stderr
facts["precompiled"] = bool(re.search(r"^! .*/kernels\\.h\\.gch$", read, re.M))

import jittor_utils
facts["home"] = [jittor_utils.home(), os.environ["HOME"]]
facts["environment"] = [os.environ.get(name) for name in ("cache_name", "log_silent")]
facts["children"] = sum(len(open(name).read().split())
                        for name in glob.glob("/proc/self/task/*/children"))
set_seed(1)
facts["cupy"] = "cupy" in sys.modules
facts["described"] = start().describe()
facts["cuda"] = [told("cuda"), told("cuda", "float32")]
facts["precisions"] = [start("cpu", name).describe() for name in ("float32", "tf32")]
facts["rounding"] = os.environ.get("NVIDIA_TF32_OVERRIDE")
facts["gpu"] = on_gpu()
jt.LOG.i("chatter")
jt.LOG.w("a warning")
child = subprocess.Popen(["sleep", "60"])
child.kill()
facts["killed"] = child.wait()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    facts["interrupted"] = True
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What a session told, on the core that is compiled in the usual place; and the user's home."""
    home, usual = tmp_path_factory.mktemp("home"), str(runtime.jittor_home())
    compiled = python("from utils.runtime import start; start('cpu')")  # once, a minute or two
    assert compiled.returncode == 0, compiled.stderr
    (home / "cupy.py").write_text("print('cupy is imported')\nrandom = None")
    run = python(SESSION, HOME=str(home), JITTOR_HOME=usual, L2SKNET_DEVICE="cpu",
                 PYTHONPATH=str(home), cache_name="l2sknet-quick-cuda")
    # Jittor shows progress where an operator takes seconds to compile.
    lines = [line for line in re.split("[\r\n]+", run.stderr)
             if line.strip() and not line.startswith("Compiling Operators")]
    assert lines == ["jittor: a warning"]  # nothing else
    return json.loads(run.stdout), home, usual


def test_a_session_starts_quietly_and_computes(session):
    facts, _, _ = session
    assert facts["described"].startswith("Running on cpu (") and "\n" not in facts["described"]
    assert "Jittor 1.3.11.0 with oneDNN" in facts["described"]
    assert facts["numbers"] == [2.0, 4.0] and facts["precompiled"]
    assert not facts["cupy"]  # which would take memory of a GPU


def test_the_process_is_left_as_it_was(session):
    """Ctrl-C raises, a killed child does no harm, no helper process stays."""
    facts, home, usual = session
    assert facts["children"] == 0 and facts["killed"] == -9 and facts["interrupted"]
    assert facts["home"] == [usual, str(home)] and not (home / ".cache").exists()
    # The name that a parent process on a GPU has set: each device has a core of its own.
    assert facts["environment"] == ["l2sknet-quick", None]


def test_a_session_without_cuda_says_so(session):
    facts, _, _ = session
    assert not facts["gpu before"] and not facts["gpu"]
    assert all(each.startswith("Jittor was started without CUDA") for each in facts["cuda"])
    assert "has no AVX512-BF16 instructions" in facts["bf16"]  # and the process went on
    assert facts["precisions"] == [facts["described"]] * 2 and facts["rounding"] is None


def test_seed_decides_all_generators(cpu):
    def numbers(seed):
        runtime.set_seed(seed)
        return random.random(), np.random.rand(), *runtime.jt.rand(2).numpy()

    first, other = numbers(1), numbers(2)
    assert numbers(1) == first and all(a != b for a, b in zip(first, other))


# ---------------------------------------------------------------------------- refusals


def test_unknown_devices_and_precisions_are_refused():
    with pytest.raises(UserError, match="unknown device 'gpu'; choose one of auto, cpu, cuda"):
        runtime.start("gpu")
    with pytest.raises(UserError, match="unknown precision 'half'; choose one of default, float32"):
        runtime.start("cpu", "half")


def test_a_conda_mpicc_without_a_compiler_is_named(tmp_path):
    mpicc = tmp_path / "mpicc"
    mpicc.write_text('#!/bin/sh\n[ "$1" = --showme:compile ] && exit\n'
                     'echo "mpicc: line 301: x86_64-conda-linux-gnu-cc: command not found" >&2\n'
                     "exit 127\n")
    mpicc.chmod(0o755)
    done = python("import train_device0; from utils import cli; cli.run(train_device0.main, True)",
                  PATH=f"{tmp_path}:{os.environ['PATH']}", OMPI_COMM_WORLD_SIZE="2",
                  OMPI_COMM_WORLD_RANK="0")
    assert done.stderr.startswith(
        f"error: {mpicc}: this mpicc cannot compile Jittor's MPI (mpicc: line 301: "
        "x86_64-conda-linux-gnu-cc: command not found); apt-get install libopenmpi-dev, "), done
    assert "export mpicc_path=/usr/bin/mpicc" in done.stderr and done.returncode


START = "from utils import cli, runtime; cli.run(lambda: print(runtime.start('cpu')))"


def test_an_older_libstdcxx_in_front_is_named(session, tmp_path):
    """It is g++'s own, with another name in place of its newest version."""
    own = subprocess.run(["g++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True)
    content = Path(own.stdout.strip()).read_bytes()
    newest = max(re.findall(rb"GLIBCXX_3\.4\.(\d\d)\0", content), key=int)
    name = b"GLIBCXX_3.4." + newest
    old = tmp_path / "libstdc++.so.6"
    old.write_bytes(content.replace(name + b"\0", b"GLIBCXX_3.9.99\0"))
    done = python(START, LD_LIBRARY_PATH=str(tmp_path))
    if done.returncode == 0:
        pytest.skip(f"Jittor's core does not need {name.decode()} here")
    assert done.stderr == (
        f"error: {old}: is older than the libstdc++ of g++ (it lacks {name.decode()}), and is "
        "loaded in its place; `unset LD_LIBRARY_PATH`, or for conda's `conda install -c "
        "conda-forge libstdcxx-ng`\n"), done


def test_another_onednn_in_front_is_named(session, tmp_path):
    subprocess.run(["g++", "-shared", "-Wl,-soname,libdnnl.so.2", "-x", "c", "/dev/null", "-o",
                    tmp_path / "libdnnl.so.2"], check=True)
    done = python(START, LD_LIBRARY_PATH=str(tmp_path))
    if done.returncode == 0:
        pytest.skip("Jittor loads no oneDNN here")
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == (
        "error: libdnnl.so.2: another version is loaded in place of oneDNN 2.2; `unset "
        "LD_LIBRARY_PATH`")


def test_home_that_cannot_be_written_and_a_missing_package_tell_the_cure(monkeypatch):
    run = python("import sys; sys.modules['jittor'] = None\n"
                 "from utils.runtime import start; start('cpu')")
    assert "UserError: jittor is not installed for" in run.stderr.splitlines()[-1]
    monkeypatch.setenv("HOME", "/proc/read-only")
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    with pytest.raises(UserError, match="/proc/read-only/.cache/jittor: .*export JITTOR_HOME="):
        runtime.jittor_home()


# ---------------------------------------------------------------------------- CUDA

GPU = cuda.Gpu("Some GPU", 90, (13, 0))


def find(monkeypatch, gpu, toolkit=None):
    """The GPU and the toolkit of this machine are these, or these errors."""
    monkeypatch.setattr(cuda, "find_gpu", Mock(side_effect=repeat(gpu)))
    monkeypatch.setattr(cuda, "find_toolkit", Mock(side_effect=repeat(toolkit)))


def test_the_gpu_is_used_where_it_can_be(tmp_path, monkeypatch, capsys):
    toolkit = cuda.Toolkit("/cuda/bin/nvcc", "12.4", "8", "")
    find(monkeypatch, GPU, toolkit)
    assert boot.choose_cuda("auto", tmp_path) == (GPU, toolkit)
    assert boot.choose_cuda("cpu", tmp_path) == (None, None)
    find(monkeypatch, cuda.NoGpu("no driver"))
    assert boot.choose_cuda("auto", tmp_path) == (None, None)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="no CUDA: no driver; or run with --device cpu"):
        boot.choose_cuda("cuda", tmp_path)
    find(monkeypatch, GPU, UserError("it lacks cuDNN; install it"))
    with pytest.raises(UserError, match="no CUDA: it lacks cuDNN; install it; or run"):
        boot.choose_cuda("cuda", tmp_path)
    assert boot.choose_cuda("auto", tmp_path) == (None, None)
    assert capsys.readouterr().err == (
        "warning: the GPU is not used: it lacks cuDNN; install it\n")


def test_a_cuda_library_that_fails_is_one_line_with_the_cure(session, tmp_path):
    """The toolkit is a compiler that only tells its version."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.48'\n")
    nvcc.chmod(0o755)
    run = python(f"""
import os
from utils.runtime import boot, cuda
boot.choose_cuda = lambda *_: (cuda.Gpu("Some GPU", 90, (13, 0)),
                               cuda.Toolkit({str(nvcc)!r}, "13.0", "9.24.1", ""))
try:
    boot.start("cuda")
finally:
    print(os.environ["cache_name"])
""")
    assert run.stdout == "l2sknet-quick-cuda\n"
    last = run.stderr.splitlines()[-1]
    assert last.startswith("utils.errors.UserError: CUDA 13.0 with cuDNN 9.24.1 cannot be set up: ")
    assert "libcudart.so: cannot open" in last
    assert last.endswith("or run without a GPU by --device cpu")


# ---------------------------------------------------------------------------- oneDNN


@pytest.mark.parametrize("found", ["nothing", "links", "folder link", "half"])
def test_onednn_is_put_where_jittor_looks_and_repaired(tmp_path, found):
    folder = tmp_path / FOLDER
    folder.parent.mkdir(parents=True)
    if found == "folder link":
        folder.symlink_to(tmp_path / "gone")
    elif found != "nothing":
        (folder / "include").mkdir(parents=True)
        (folder / "lib").symlink_to("/gone") if found == "links" else (folder / "lib").mkdir()
    if not onednn.provide_onednn(tmp_path):
        pytest.skip("the oneDNN wheels exist for x86-64 Linux only")
    program = tmp_path / "program.cc"
    program.write_text("#include <mkldnn.hpp>\nint main() { return dnnl_version()->minor - 2; }\n")
    subprocess.run(["g++", str(program), f"-I{folder}/include", f"-L{folder}/lib", "-lmkldnn",
                    f"-Wl,-rpath,{folder}/lib", "-o", str(tmp_path / "program")], check=True)
    assert subprocess.run([tmp_path / "program"]).returncode == 0
    # Jittor takes the first folder named dnnl*.
    assert [path.name for path in folder.parent.glob("*") if path.is_dir()] == [folder.name]
    made = folder.stat().st_ctime_ns
    assert onednn.provide_onednn(tmp_path) and folder.stat().st_ctime_ns == made


def test_processes_may_place_onednn_at_once(tmp_path):
    code = ("import sys; from pathlib import Path; from utils.runtime import onednn\n"
            f"print(onednn.provide_onednn(Path({str(tmp_path)!r})))")
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                             text=True) for _ in range(4)]
    answers = {run.communicate()[0] for run in runs}
    if answers == {"False\n"}:
        pytest.skip("the oneDNN wheels exist for x86-64 Linux only")
    assert answers == {"True\n"}
    assert [path.name for path in (tmp_path / FOLDER).parent.glob("*") if path.is_dir()] == [
        "dnnl_lnx_2.2.0_cpu_gomp"]


def test_without_onednn_nothing_is_downloaded_and_a_line_says_so(session):
    run = python("from utils.runtime import jt, start; print(start().describe())",  # by itself
                 use_mkl="0", L2SKNET_DEVICE="cpu")
    assert run.stdout.startswith("Running on cpu (")
    assert "without oneDNN (slow)" in run.stdout
    assert run.stderr.startswith("warning: no oneDNN") and run.stderr.count("\n") == 1
