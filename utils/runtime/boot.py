"""Starting Jittor: its environment prepared, its module imported, the device chosen."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import platform
import re
import shlex
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from utils import environment
from utils.errors import UserError
from utils.files import atomic_path
from utils.runtime import cuda, ranks
from utils.runtime.home import has_locks, jittor_home
from utils.runtime.onednn import (
    AVX512_BF16,
    allow_amx,
    cpu_instructions,
    onednn_folder,
    provide_onednn,
)
from utils.runtime.quick import CACHE_NAME, quick_core, quick_kernels

DEVICES = ("auto", "cpu", "cuda")
BF16 = "bf16"
PRECISIONS = ("default", "float32", "tf32", BF16)
CUDA_CACHE = "-cuda"  # end of the name of Jittor's cache folder for a core with CUDA

_running: Runtime | None = None


@dataclass(frozen=True)
class Runtime:
    """What the networks run on."""

    device: str  # "cpu" or "cuda"
    device_name: str
    onednn: bool  # True if convolutions on the CPU use oneDNN
    precision: str = "default"
    toolkit: cuda.Toolkit | None = None  # None: Jittor was started without CUDA

    def describe(self) -> str:
        """One line for the head of a log."""
        onednn = where = ""
        if self.device == "cpu":
            onednn = " with oneDNN" if self.onednn else " without oneDNN (slow)"
            where = ", precision bf16" if self.precision == BF16 else ""
        else:
            where = (f", CUDA {self.toolkit.cuda}, cuDNN {self.toolkit.cudnn}, "
                     f"precision {self.precision}")
        many = f" by {ranks.size()} ranks" if ranks.size() > 1 else ""
        return (f"Running on {self.device}{many} ({self.device_name}{where}), "
                f"Jittor {sys.modules['jittor'].__version__}{onednn}, "
                f"Python {platform.python_version()}")


def start(device: str = "auto", precision: str | None = None) -> Runtime:
    """Prepares the environment, imports Jittor and chooses the device.

    Later calls return the same Runtime, or change its device.

    Args:
        device: "cpu" and "cuda" demand that device; "auto" takes a GPU that works, else the CPU.
        precision: for the whole process. On a GPU, "default" lets cuDNN round the factors of
            convolutions to TF32 (10 bits) and keeps matrix products in float32, as PyTorch does;
            "float32" rounds nothing; "tf32" uses TF32 in matrix products too. On a CPU with
            AVX512-BF16, "bf16" computes activations and convolutions in bfloat16.

    Raises:
        UserError: Jittor cannot run here, or not on the demanded device.
    """
    global _running
    if device not in DEVICES:
        raise UserError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if precision not in (None, *PRECISIONS):
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if _running is None:
        _running = _boot(device, precision or "default")
    if precision not in (None, _running.precision):
        if _running.toolkit:
            raise UserError(f"the precision is {_running.precision} in this process and cannot "
                            "change; start another process")
        _check_precision(precision, _running.onednn)
        _running = replace(_running, precision=precision)
    if device not in ("auto", _running.device):
        if device == "cuda" and not _running.toolkit:
            raise UserError("Jittor was started without CUDA in this process; "
                            "start it with the device cuda at first")
        _use_cuda(device == "cuda")
        name = cuda.find_gpu().name if device == "cuda" else _cpu_name()
        _running = replace(_running, device=device, device_name=name)
    return _running


def precision() -> str:
    """The precision of this process; "default" before Jittor is started."""
    return "default" if _running is None else _running.precision


def on_gpu() -> bool:
    """True if Jittor computes on a GPU; False before it is started."""
    return _running is not None and bool(sys.modules["jittor"].flags.use_cuda)


def _use_cuda(on: bool) -> None:
    """Makes Jittor compute on the GPU or on the CPU from now on, and hides its message."""
    flags = sys.modules["jittor"].flags
    silent, flags.log_silent = flags.log_silent, 1
    flags.use_cuda = int(on)
    flags.log_silent = silent


def set_seed(seed: int) -> None:
    """Seeds Python's, NumPy's and Jittor's generators."""
    jittor = start_if_needed()
    with _without_cupy():
        jittor.set_global_seed(seed, different_seed_for_mpi=False)


def start_if_needed() -> ModuleType:
    """Jittor's module; starts it on $L2SKNET_DEVICE or "auto" first if need be."""
    if _running is None:
        start(os.environ.get("L2SKNET_DEVICE", "auto"))
    return sys.modules["jittor"]


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------- importing Jittor


def _boot(device: str, precision: str) -> Runtime:
    environment.check_python()
    environment.check_tools()
    home = jittor_home()
    gpu, toolkit = choose_cuda(device, home)
    if toolkit and precision == BF16:
        raise UserError("--precision bf16: is for CPUs only; add --device cpu, or take tf32")
    if "torch" in sys.modules:
        _warn("PyTorch is loaded in this process; its oneDNN and Jittor's may clash")
    try:
        _prepare(home, toolkit, precision)
        jittor = _import_jittor(home, toolkit)
    except ImportError as error:
        _check_libraries(error)
        if isinstance(error, ModuleNotFoundError) and not str(error.name).endswith("_core"):
            raise environment.not_installed(error.name) from None
        raise UserError(f"Jittor's compiled code cannot be loaded ({error}); "
                        f"remove {home}/.cache/jittor/jt* and run again") from None
    except (OSError, RuntimeError) as error:
        _check_libraries(error)
        if toolkit and not getattr(error, "errno", None):  # the dynamic linker's have none
            raise UserError(
                f"CUDA {toolkit.cuda} with cuDNN {toolkit.cudnn} cannot be set up: "
                f"{_in_one_line(error)}; see what `python -m utils.runtime` finds, or run without "
                "a GPU by --device cpu") from None
        if isinstance(error, RuntimeError):
            raise
        raise UserError(f"Jittor cannot be set up: {error}; is {home}/.cache/jittor full or "
                        "not yours? JITTOR_HOME=/another/folder puts it elsewhere") from None
    except SystemExit:  # Jittor exits after recompiling its compiler helper
        raise UserError("Jittor has recompiled its core; run the same command again") from None
    _restore_process(jittor)
    _keep_memory()

    if toolkit:
        if not jittor.has_cuda:
            raise UserError("Jittor was compiled but sees no GPU; use --device cpu, or check "
                            "nvidia-smi and $CUDA_VISIBLE_DEVICES")
        jittor.flags.nvcc_flags = cuda.adapt_flags(jittor.flags.nvcc_flags, gpu)
        jittor.flags.use_cuda_managed_allocator = 0
        # With cuDNN 8 this flag lets convolutions round to half precision; the default is TF32.
        jittor.flags.use_tensorcore = int(precision == "tf32" and toolkit.cudnn[:1] != "8")
        # By default Jittor remembers the fastest algorithm for 100 shapes of convolutions only.
        if jittor.cudnn:
            jittor.cudnn.set_algorithm_cache_size(100_000)
    _use_cuda(bool(toolkit))
    onednn = jittor.compile_extern.mkl_ops is not None
    if onednn:
        allow_amx()
    elif not toolkit:
        _warn("no oneDNN: convolutions will be many times slower; "
              "`pip install -r requirements.txt` brings it (x86-64 Linux)")
    return Runtime("cuda" if toolkit else "cpu", gpu.name if toolkit else _cpu_name(), onednn,
                   "default" if precision == BF16 else precision, toolkit)  # `start` turns it on


def _prepare(home: Path, toolkit: cuda.Toolkit | None, precision: str) -> None:
    """Sets the environment variables that Jittor reads, and loads the libraries of CUDA."""
    cache = home / ".cache" / "jittor"
    if not has_locks(cache):
        os.environ["disable_lock"] = "1"  # Jittor would stop at its lock
    for name, value in {
        "python_config_path": environment.python_config(),
        "use_cutt": "0", "use_cutlass": "0", "use_nccl": "0", "use_mpi": "0",  # downloads
        "FIX_TORCH_ERROR": "0",  # would import PyTorch
        "gdb_path": "",  # saves a quarter of a second
    }.items():
        os.environ.setdefault(name, value)
    # Jittor puts the folder of a CUDA core behind the CPU's folder on `sys.path`: with one name for
    # both, it would import the CPU's core if that exists. The variable may be set by a parent
    # process or the user; by default Jittor takes the git branch of its folder.
    name = re.sub(re.escape(CUDA_CACHE) + "$", "", os.environ.get("cache_name", CACHE_NAME))
    os.environ["cache_name"] = name + CUDA_CACHE if toolkit else name
    # Empty for the CPU: Jittor would crash if it found nvcc but no GPU.
    os.environ["nvcc_path"] = toolkit.nvcc if toolkit else ""
    if toolkit:
        if precision == "float32":  # read by cuBLAS and cuDNN when they are loaded
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        toolkit.load()
    if not provide_onednn(home):
        os.environ["use_mkl"] = "0"  # or it would be downloaded from a university's server
    ranks.prepare(cuda.find_nccl(cache) if toolkit and ranks.size() > 1 else None)


def _import_jittor(home: Path, toolkit: cuda.Toolkit | None) -> ModuleType:
    # Jittor, and each Python that it starts, writes a $JITTOR_HOME other than $HOME into
    # $HOME/.cache/jittor/config.json, for all later runs. So both variables are equal while it is
    # imported: then it writes nothing, and the user's home may be read-only.
    user_home = Path(os.path.expanduser("~"))
    variables = {"HOME": str(home), "JITTOR_HOME": str(home)}
    quiet = os.environ.get("log_v", "0") == "0"
    if quiet:
        variables["log_silent"] = "1"
    with _set(os.environ, **variables), contextlib.redirect_stdout(sys.stderr), _without_cupy():
        import jittor_utils  # light: finds g++ and the cache folder

        core = "cu*/jittor_core*.so" if toolkit else "jittor_core*.so"
        if not any(Path(jittor_utils.cache_path).glob(core)):
            print("Jittor compiles its core, once for this environment: a minute or two on 2 cores",
                  file=sys.stderr, flush=True)
        if quiet:  # hides Jittor's information lines, but not warnings, errors and progress
            jittor_utils.LOG.log_silent = 0
            jittor_utils.LOG._log = _log_quietly
        # On a GPU, which waits for the core, it is compiled with Jittor's own flags.
        quick = contextlib.nullcontext() if toolkit else quick_core()
        with ranks.mended_mpi(), quick, warnings.catch_warnings():
            # Python 3.12 warns about Jittor's docstrings when it compiles them.
            warnings.simplefilter("ignore", SyntaxWarning)
            import jittor

        if home != user_home:
            jittor.flags.python_path = _python_at(home, jittor.flags.python_path)
        if not toolkit:
            quick_kernels(jittor, onednn_folder(home))
        return jittor


def _python_at(home: Path, python: str) -> str:
    """Path of a script that starts `python` with this home; Jittor calls it per operator.

    A script, because Jittor takes each further word that is no option for a source file, and the
    -S of `env` is missing in coreutils before 8.30 (Ubuntu 18.04).
    """
    quoted = shlex.quote(str(home))
    content = os.fsencode(f"#!/bin/sh\nHOME={quoted} JITTOR_HOME={quoted} "
                          f'exec {shlex.quote(python)} "$@"\n')
    script = home / ".cache" / "jittor" / f"python_{zlib.crc32(content):08x}"
    if not (script.is_file() and script.read_bytes() == content):
        with atomic_path(script) as temporary:
            temporary.write_bytes(content)
            temporary.chmod(0o755)
    return str(script)


@contextlib.contextmanager
def _set(items: MutableMapping[str, Any], **values: Any) -> Iterator[None]:
    """Sets environment variables, or modules, for a moment."""
    before = {name: items[name] for name in values if name in items}
    items.update(values)
    try:
        yield
    finally:
        for name in values:
            items.pop(name, None)
        items.update(before)


def _without_cupy() -> contextlib.AbstractContextManager[None]:
    """Hides CuPy from Jittor, which would import it; CuPy takes GPU memory."""
    return _set(sys.modules, cupy=None)  # `import cupy` raises ImportError


def _keep_memory() -> None:
    """Makes malloc keep freed memory.

    oneDNN takes and frees memory for each operator; the system would map 70 MB anew in each step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        trim_threshold, mmap_max = -1, -4  # as malloc.h numbers them
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def _in_one_line(error: Exception) -> str:
    """The texts of an error and its cause in one line; cuts out the middle of a long text."""
    texts = [str(found) for found in (error, error.__context__) if found]
    line = " ".join(re.sub(r"\x1b\[[\d;]*[mK]", "", ": ".join(texts)).split())  # without colours
    return line if len(line) <= 400 else f"{line[:150]} ... {line[-245:]}"


def _check_libraries(error: Exception) -> None:
    """Raises a UserError if the cause is a library that is loaded in the place of the right one."""
    found = re.search(r"(\S*libstdc\+\+\S*): version `(\S+)' not found", str(error))
    if found:
        raise UserError(
            f"{found[1]}: is older than the libstdc++ of g++ (it lacks {found[2]}), and is loaded "
            "in its place; `unset LD_LIBRARY_PATH`, or for conda's `conda install -c conda-forge "
            "libstdcxx-ng`") from None
    if "undefined symbol: dnnl_" in str(error):
        raise UserError("libdnnl.so.2: another version is loaded in place of oneDNN 2.2; "
                        "`unset LD_LIBRARY_PATH`") from None


def _log_quietly(level: str, verbose: int, *message) -> None:
    """Prints warnings and errors of Jittor, and raises a RuntimeError for a fatal message."""
    text = "".join(str(part() if callable(part) else part) for part in message)
    if level in "we":
        print(f"jittor: {text}", file=sys.stderr, flush=True)
    elif level == "f":
        raise RuntimeError(text)


def _restore_process(jittor) -> None:
    """Undoes what importing Jittor did to the whole process."""
    import jittor_utils

    jittor.flags.log_silent = int(os.environ.get("log_silent", "0"))
    # Jittor's compiler processes would stay, and outlive a killed parent.
    if jittor_utils.pool_size:
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0
        atexit.unregister(jittor_utils.pool_cleanup)
    atexit.register(_wait_for_threads)  # runs before Jittor's own
    # Jittor's handlers would end the process on Ctrl-C, and when a child process is killed.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGCHLD):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)
        if ranks.size() > 1:  # Jittor's handlers would wait for ranks that wait for this one
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(number, signal.SIG_DFL)


def _wait_for_threads() -> None:
    """Waits until all other threads sleep, two seconds at most.

    At exit Jittor tells its compiler threads to end, and joins them. On a busy machine, a thread
    that has not yet begun to run would miss that message, and the process would hang.
    """
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        states = []
        for task in Path("/proc/self/task").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if int(task.name) != threading.get_native_id():
                    states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        if all(state == "S" for state in states):
            return
        time.sleep(0.005)


# ---------------------------------------------------------------------------- the device


def choose_cuda(
    device: str, home: Path
) -> tuple[cuda.Gpu, cuda.Toolkit] | tuple[None, None]:
    """The GPU and the toolkit for it, or (None, None) for the CPU.

    Raises:
        UserError: `device` is "cuda", and no GPU can be used.
    """
    if device == "cpu":
        return None, None
    try:
        gpu = cuda.find_gpu()
        return gpu, cuda.find_toolkit(home / ".cache" / "jittor", gpu)
    except UserError as problem:
        if device == "cuda":
            raise UserError(f"no CUDA: {problem}; or run with --device cpu") from None
        if not isinstance(problem, cuda.NoGpu):  # there is a GPU, but it cannot be used
            _warn(f"the GPU is not used: {problem}")
    return None, None


def _check_precision(precision: str, onednn: bool) -> None:
    if precision == BF16 and not (onednn and cpu_instructions() & AVX512_BF16 == AVX512_BF16):
        raise UserError(f"--precision bf16: {_cpu_name()} has no AVX512-BF16 instructions, or "
                        "oneDNN is missing; leave the flag out to compute in float32")


def _cpu_name() -> str:
    cores = f"{len(os.sched_getaffinity(0))} cores"
    with contextlib.suppress(OSError, TypeError):  # not readable; ARM's has no such line
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        return f"{found[1].strip()}, {cores}"
    return cores
