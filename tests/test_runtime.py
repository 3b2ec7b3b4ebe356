"""Starting Jittor: each case in a process of its own, as scripts do it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils import environment, runtime
from utils.errors import UserError
from utils.runtime import boot, cuda, onednn

ROOT = Path(environment.ROOT)


def _has_gpu():
    try:
        return bool(cuda.find_gpu())
    except UserError:
        return False


def python(code, **variables):
    """Runs code in a new process; a variable that is None is removed."""
    env = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, text=True,
                          capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def compiled_core():
    """The core that Jittor compiles once, which takes a minute or two, is not part of any test."""
    run = python("from utils.runtime import start; start('cpu')")
    assert run.returncode == 0, run.stderr


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


def test_an_older_libstdcxx_in_front_is_named(tmp_path):
    """It is g++'s own, whose newest version, that of g++ 12, has another name."""
    own = subprocess.run(["g++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True)
    content = Path(own.stdout.strip()).read_bytes()
    newest = max(re.findall(rb"GLIBCXX_3\.4\.(\d\d)\0", content), key=int)
    name = b"GLIBCXX_3.4." + newest
    old = tmp_path / "libstdc++.so.6"
    old.write_bytes(content.replace(name + b"\0", b"GLIBCXX_3.9.99\0"))
    done = python("from utils import cli, runtime; cli.run(lambda: print(runtime.start('cpu')))",
                  LD_LIBRARY_PATH=str(tmp_path))
    if done.returncode == 0:
        pytest.skip(f"Jittor's core does not need {name.decode()} here")
    assert done.stderr == (
        f"error: {old}: is older than the libstdc++ of g++ (it lacks {name.decode()}), and is "
        "loaded in its place; `unset LD_LIBRARY_PATH`, or for conda's `conda install -c "
        "conda-forge libstdcxx-ng`\n"), done


def test_import_of_the_modules_does_no_work():
    run = python("import sys, utils.runtime; print('jittor_utils' in sys.modules)")
    assert run.stdout == "False\n"


def test_start_describes_in_one_line_and_keeps_jittor_quiet():
    run = python("from utils.runtime import start; print(start('cpu').describe())")
    assert run.stdout.startswith("Running on cpu (") and run.stdout.count("\n") == 1
    assert "Jittor 1.3.11.0 with oneDNN" in run.stdout
    assert run.stderr == ""


def test_jt_starts_by_itself_and_computes():
    run = python("from utils.runtime import jt, start\n"
                 "print((jt.array([1., 2.]) * 3).numpy().tolist(), start().device)",
                 L2SKNET_DEVICE="cpu")
    assert run.stdout == "[3.0, 6.0] cpu\n", run.stderr


def test_a_new_operator_is_compiled_with_the_precompiled_header():
    """Its text has the number of a process in it, so nobody has compiled it yet."""
    run = python("""
import glob, os, re, shlex, subprocess
from utils.runtime import start, jt
start("cpu")
name = "two%d" % os.getpid()
text = f"int {name}=2; for (int i=0; i<out0->num; i++) out0_p[i] = in0_p[i] * {name};"
print(jt.code((2,), "float32", [jt.array([1., 2.])], cpu_src=text).numpy().tolist())
sources = glob.glob(glob.escape(jt.flags.cache_path) + "/jit/*_op.cc")
source, = (path for path in sources if name in open(path).read())
words = shlex.split(open(source.replace("_op.cc", "_op.so.key")).readline())
compiler, = (index for index, word in enumerate(words) if word.startswith("--cc_path="))
command = [words[compiler][len("--cc_path="):], *words[compiler + 1:]]
command[command.index("-o") + 1] = "/dev/null"
told = subprocess.run([*command, "-c", "-g", "-H"], capture_output=True, text=True).stderr
print(re.search(r"^! .*/kernels\\.h\\.gch$", told, re.M) is not None)
""")
    assert run.stdout == "[2.0, 4.0]\nTrue\n", run.stderr


def test_process_is_left_as_it_was():
    """Ctrl-C raises, a killed child does no harm, no helper process stays."""
    run = python("""
import glob, os, signal, subprocess, time
from utils.runtime import start
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
start("cpu")
print(os.environ.get("log_silent"))
print(sum(len(open(name).read().split()) for name in glob.glob("/proc/self/task/*/children")))
child = subprocess.Popen(["sleep", "60"])
child.kill()
print(child.wait())
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
""")
    assert run.stdout == "None\n0\n-9\ninterrupted\n", run.stderr


def test_jittors_warnings_still_show():
    run = python("from utils.runtime import jt\njt.LOG.i('chatter')\njt.LOG.w('a warning')")
    assert run.stderr == "jittor: a warning\n"


def test_seed_decides_all_generators():
    code = ("import random, numpy\nfrom utils.runtime import jt, set_seed\nset_seed({})\n"
            "print(random.random(), numpy.random.rand(), jt.rand(2).numpy())")
    first, again, other = (python(code.format(seed)).stdout for seed in (1, 1, 2))
    assert first and first == again
    assert all(a != b for a, b in zip(first.split(), other.split()))


# ---------------------------------------------------------------------------- devices


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="unknown device 'gpu': choose one of auto, cpu, cuda"):
        runtime.start("gpu")


@pytest.mark.skipif(_has_gpu(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_a_one_line_error():
    run = python("""
import sys
from utils.errors import UserError
from utils.runtime import start
try:
    start("cuda")
except UserError as error:
    print(error, "jittor" in sys.modules, sep="|")
""")
    assert run.stdout.startswith("no CUDA: ") and run.stdout.endswith("|False\n"), run.stderr


def test_cuda_after_a_start_without_it_is_an_error():
    run = python("from utils.runtime import start; start('cpu'); start('cuda')")
    assert "UserError: Jittor was started without CUDA" in run.stderr


def test_cuda_is_demanded_whatever_the_precision():
    run = python("from utils.runtime import start; start('cpu'); start('cuda', 'float32')")
    assert "UserError: Jittor was started without CUDA" in run.stderr


def test_a_process_goes_on_without_bf16_where_the_processor_has_none():
    run = python("""
from utils.errors import UserError
from utils.runtime import boot, start
boot.AVX512_BF16 = 1 << 40
try:
    start('cpu', 'bf16')
except UserError as error:
    print(error)
from utils.runtime import jt
flags = jt.flags.cc_flags
print(start('cpu').precision, flags == jt.flags.cc_flags)
""")
    assert "has no AVX512-BF16 instructions" in run.stdout, run.stderr
    assert run.stdout.splitlines()[-1] == "default True"


GPU = cuda.Gpu("Some GPU", 90, (13, 0))


def found(answer):
    """A stand-in for a function that finds, or fails."""
    def function(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return function


def test_what_was_found_is_used_unless_the_cpu_is_demanded(tmp_path, monkeypatch):
    toolkit = cuda.Toolkit("/cuda/bin/nvcc", "12.4", "8", "")
    monkeypatch.setattr(cuda, "find_gpu", found(GPU))
    monkeypatch.setattr(cuda, "find_toolkit", found(toolkit))
    assert boot.choose_cuda("auto", tmp_path) == (GPU, toolkit)
    assert boot.choose_cuda("cpu", tmp_path) == (None, None)


def test_gpu_that_lies_idle_is_an_error_or_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "find_gpu", found(GPU))
    monkeypatch.setattr(cuda, "find_toolkit", found(UserError("it lacks cuDNN; install it")))
    with pytest.raises(UserError, match="no CUDA: it lacks cuDNN; install it; --device cpu"):
        boot.choose_cuda("cuda", tmp_path)
    assert boot.choose_cuda("auto", tmp_path) == (None, None)
    assert capsys.readouterr().err == (
        "warning: the GPU is not used: it lacks cuDNN; install it\n")


def test_machine_without_a_gpu_needs_no_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "find_gpu", found(cuda.NoGpu("no driver")))
    assert boot.choose_cuda("auto", tmp_path) == (None, None)
    assert capsys.readouterr().err == ""


def test_precision_is_checked_and_changes_nothing_on_the_cpu():
    with pytest.raises(UserError, match="unknown precision 'half': choose one of default, float32"):
        runtime.start("cpu", "half")
    run = python("import os\nfrom utils.runtime import start\n"
                 "print(start('cpu', 'float32').describe() == start('cpu', 'tf32').describe(),\n"
                 "      os.environ.get('NVIDIA_TF32_OVERRIDE'))")
    assert run.stdout == "True None\n" and run.stderr == ""


# ---------------------------------------------------------------------------- two cores

# Jittor's own start, with a compiler that makes a Python file of each library: the core says for
# which device it was made, and ends the process.
MADE_OF_PYTHON = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from utils.runtime import boot, cuda, quick

def compile(command, *_):
    target = Path(re.search('-o "([^"]+)"', command)[1])
    if target.name.startswith("jittor_core"):
        device = "cuda" if "-DHAS_CUDA" in command else "cpu"
        text = f"import os; print('core for {device}', flush=True); os._exit(0)"
        target.with_name("jittor_core.py").write_text(text)

def import_jittor(home, right=boot._import_jittor):
    import jittor_utils
    jittor_utils.cc = sys.modules["jit_utils_core"] = SimpleNamespace(cache_compile=compile)
    jittor_utils.run_cmds = lambda *_, **__: None
    {before}
    return right(home)

boot._import_jittor = import_jittor
quick._precompile = lambda header, *_: header
boot.choose_cuda = lambda device, _: (None, None) if device == "cpu" else (
    cuda.Gpu("Some GPU", 90, (13, 0)), cuda.Toolkit("{nvcc}", "13.0", "9.24.1", "", ()))
boot.start("{device}")
"""


@pytest.fixture(scope="module")
def fake_nvcc(tmp_path_factory):
    """A compiler that only tells its version, and the one library that Jittor loads for itself."""
    nvcc = tmp_path_factory.mktemp("cuda") / "bin" / "nvcc"
    library = nvcc.parent.parent / "lib64" / "libcudart.so"
    for path in (nvcc, library):
        path.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.48'\n")
    nvcc.chmod(0o755)
    subprocess.run(["g++", "-shared", "-x", "c++", "/dev/null", "-o", library], check=True)
    return nvcc


def start_made_of_python(fake_nvcc, home, device, before="", **variables):
    code = MADE_OF_PYTHON
    for mark, value in (("{nvcc}", fake_nvcc), ("{device}", device), ("{before}", before)):
        code = code.replace(mark, str(value))
    user = home / "user"
    run = python(code, HOME=str(user), JITTOR_HOME=str(home), use_data_gz="0", use_mkl="0",
                 **variables)
    assert not user.exists()  # where Jittor would remember its home for all later runs
    return run


@pytest.mark.parametrize("order", [("cpu", "cuda", "cpu", "cuda"), ("cuda", "cpu", "cuda")])
def test_each_device_has_the_core_that_was_compiled_for_it(fake_nvcc, tmp_path, order):
    for device in order:
        run = start_made_of_python(fake_nvcc, tmp_path, device)
        assert f"core for {device}\n" in run.stderr, run.stderr
    assert len(list(tmp_path.rglob("jittor_core.py"))) == 2


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_name_given_by_a_parent_process_or_the_user_is_no_others(monkeypatch, given):
    monkeypatch.delenv("cache_name", raising=False)
    if given:
        monkeypatch.setenv("cache_name", given)
    toolkit, names = cuda.Toolkit("/cuda/bin/nvcc", "12.4", "8", ""), []
    for found in (None, toolkit, None, toolkit, toolkit):
        names.append(boot._cache_name(found))
        monkeypatch.setenv("cache_name", names[-1])  # as a child process sees it
    name = given or boot.CACHE_NAME
    assert names == [name, f"{name}-cuda", name, f"{name}-cuda", f"{name}-cuda"]


@pytest.mark.parametrize(("fails", "says"), [
    ("jittor_utils.LOG.f('CUDA found but \x1b[31mcudnn is not loaded:\\nor let jittor do it')",
     "CUDA found but cudnn is not loaded: or let jittor do it: libcudnn.so.9: no such symbol;"),
    ("raise OSError('libcublas.so: cannot open shared object file')", "libcublas.so: cannot open"),
])
def test_a_cuda_library_that_fails_is_one_line_with_the_cure(fake_nvcc, tmp_path, fails, says):
    before = f"""
    try:
        raise ValueError("libcudnn.so.9: no such symbol")
    except ValueError:
        jittor_utils.LOG._log = boot._log_quietly
        {fails}"""
    run = start_made_of_python(fake_nvcc, tmp_path, "cuda", before)
    last = run.stderr.splitlines()[-1]
    assert last.startswith("utils.errors.UserError: CUDA 13.0 with cuDNN 9.24.1 cannot be set up: ")
    assert says in last and last.endswith("or run without a GPU by --device cpu")


@pytest.mark.parametrize("loaded", [True, False])
def test_jittor_does_not_import_cupy(tmp_path, loaded):
    (tmp_path / "cupy.py").write_text("print('cupy is imported')\nrandom = None")
    run = python(f"""
import sys
{"import cupy" * loaded}
from utils.runtime import set_seed, start
start("cpu")
set_seed(1)
print("cupy" in sys.modules, sys.modules.get("cupy", 1) is None)
import cupy
""", PYTHONPATH=str(tmp_path))
    said = ["cupy is imported", f"{loaded} False"]
    assert run.stdout.splitlines() == (said if loaded else said[::-1]), run.stderr


# ---------------------------------------------------------------------------- folders


def test_jittor_home_is_used_for_this_run_only(tmp_path):
    """The core compiled in the usual place is found there, whatever $HOME is."""
    usual = str(runtime.jittor_home())
    code = ("import os; from utils.runtime import start, jt; start('cpu')\n"
            "import jittor_utils; print(jittor_utils.home(), os.environ['HOME'])\n"
            "text = 'int at%d; out0_p[0] = 3;' % os.getpid()\n"  # compiled by a process of Jittor's
            "print(jt.code((1,), 'float32', [], cpu_src=text).numpy().tolist())")
    for home in (str(tmp_path), "/proc/read-only"):
        run = python(code, HOME=home, JITTOR_HOME=usual)
        assert run.stdout == f"{usual} {home}\n[3.0]\n" and run.stderr == ""
    assert not (tmp_path / ".cache").exists()


def test_home_that_cannot_be_written_tells_the_cure():
    run = python("from utils.runtime import start; start('cpu')",
                 HOME="/proc/read-only", JITTOR_HOME=None)
    last = run.stderr.splitlines()[-1]
    assert "/proc/read-only/.cache/jittor" in last and "export JITTOR_HOME=" in last


def test_missing_package_names_the_cure():
    run = python("import sys; sys.modules['jittor'] = None\n"
                 "from utils.runtime import start; start('cpu')")
    assert "UserError: jittor is not installed for" in run.stderr.splitlines()[-1]


onednn_wheels = pytest.mark.skipif(
    onednn._installed_file("onednn-cpu-gomp", "libmkldnn.so") is None,
    reason="the oneDNN wheels exist for x86-64 Linux only")


@onednn_wheels
def test_onednn_is_put_where_jittor_looks(tmp_path):
    assert onednn.provide_onednn(tmp_path)
    folder = tmp_path / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    program = tmp_path / "program.cc"
    program.write_text("#include <mkldnn.hpp>\nint main() { return dnnl_version()->minor - 2; }\n")
    subprocess.run(["g++", str(program), f"-I{folder}/include", f"-L{folder}/lib", "-lmkldnn",
                    f"-Wl,-rpath,{folder}/lib", "-o", str(tmp_path / "program")], check=True)
    assert subprocess.run([tmp_path / "program"]).returncode == 0
    # Jittor takes the first folder named dnnl*.
    assert [path.name for path in folder.parent.glob("*") if path.is_dir()] == [folder.name]


@onednn_wheels
@pytest.mark.parametrize("kind", ["links", "folder link", "half"])
def test_broken_onednn_is_repaired(tmp_path, kind):
    folder = tmp_path / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    folder.parent.mkdir(parents=True)
    if kind == "folder link":
        folder.symlink_to(tmp_path / "gone")
    else:
        folder.mkdir()
        (folder / "include").mkdir()
        (folder / "lib").symlink_to("/gone") if kind == "links" else (folder / "lib").mkdir()
    assert onednn.provide_onednn(tmp_path)
    assert (folder / "lib/libmkldnn.so").is_file() and (folder / "include/mkldnn.hpp").is_file()


@onednn_wheels
def test_working_onednn_is_left_alone(tmp_path):
    folder = tmp_path / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
    folder.mkdir(parents=True)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "include").symlink_to(Path(sys.prefix) / "include")
    if not (folder / "lib/libmkldnn.so").exists():
        pytest.skip("the wheels are not installed in this environment's lib/")
    assert onednn.provide_onednn(tmp_path)
    assert (folder / "lib").is_symlink()


@onednn_wheels
def test_processes_may_place_onednn_at_once(tmp_path):
    code = ("import sys; from pathlib import Path; from utils.runtime import onednn\n"
            f"sys.exit(not onednn.provide_onednn(Path({str(tmp_path)!r})))")
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [run.wait() for run in runs] == [0, 0, 0, 0]
    parent = tmp_path / ".cache/jittor/mkl"
    assert [path.name for path in parent.glob("*") if path.is_dir()] == ["dnnl_lnx_2.2.0_cpu_gomp"]


def test_without_onednn_nothing_is_downloaded_and_a_line_says_so(tmp_path):
    run = python("from utils.runtime import start; print(start('cpu').describe())", use_mkl="0")
    assert "without oneDNN (slow)" in run.stdout
    assert run.stderr.startswith("warning: no oneDNN") and run.stderr.count("\n") == 1
