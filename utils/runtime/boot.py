"""Starting Jittor: its environment prepared, its module imported, the device chosen."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from utils import environment
from utils.errors import UserError
from utils.runtime import cuda, ranks
from utils.runtime.home import has_locks, jittor_home
from utils.runtime.onednn import cpu_instructions, onednn_folder, provide_onednn
from utils.runtime.quick import CACHE_NAME, quick_core, quicken_kernels

DEVICES = ("auto", "cpu", "cuda")
BF16 = "bf16"
PRECISIONS = ("default", "float32", "tf32", BF16)
AVX512_BF16 = 0xE7  # in `cpu_instructions`
CUDA_CACHE = "-cuda"  # what the name of Jittor's cache folder ends with where CUDA is compiled in
_MISSING = object()

_running: Runtime | None = None


@dataclass(frozen=True)
class Runtime:
    """What the networks run on."""

    device: str  # "cpu" or "cuda"
    device_name: str
    onednn: bool  # whether convolutions on the CPU use oneDNN
    jittor: str
    python: str
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
                f"Jittor {self.jittor}{onednn}, Python {self.python}")


def start(device: str = "auto", precision: str | None = None) -> Runtime:
    """Prepares Jittor's environment, imports it and chooses the device.

    Later calls return the same Runtime, on another device if they ask for one.

    Args:
        device: "cuda" demands a GPU, "cpu" none; "auto" takes a GPU that Jittor can use.
        precision: of the sums of products on a GPU, for the whole process. "default": cuDNN may
            round the factors of convolutions to TF32 (10 bits), matrix products are float32, as
            PyTorch does it. "float32": no rounding at all. "tf32": matrix products in TF32 too.
            "bf16": on a CPU that has it, activations and convolutions in bfloat16.

    Raises:
        UserError: Jittor cannot run here, or not on the device demanded; says what to do.
    """
    global _running
    if device not in DEVICES:
        raise UserError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if precision not in (None, *PRECISIONS):
        raise UserError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if _running is None:
        _running = _boot(device, precision or "default")
    if precision not in (None, _running.precision):
        if _running.toolkit:
            raise UserError(f"the precision is {_running.precision} in this process: "
                            "it cannot change after the start")
        _check_precision(precision, _running.onednn)
        _running = replace(_running, precision=precision)
    if device not in ("auto", _running.device):
        if device == "cuda" and not _running.toolkit:
            raise UserError("Jittor was started without CUDA in this process: "
                            "start it with the device cuda from the beginning")
        use_cuda(device == "cuda")
        name = cuda.find_gpu().name if device == "cuda" else _cpu_name()
        _running = replace(_running, device=device, device_name=name)
    return _running


def precision() -> str:
    """The precision that Jittor was started with; "default" before."""
    return "default" if _running is None else _running.precision


def use_cuda(on: bool) -> None:
    """Where Jittor computes from now on; without its line about it."""
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
    """Jittor's module, started on $L2SKNET_DEVICE or "auto" if it was not yet."""
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
    if not has_locks(home / ".cache" / "jittor"):
        os.environ["disable_lock"] = "1"  # Jittor would stop at its lock
    gpu, toolkit = choose_cuda(device, home)
    if toolkit and precision == BF16:
        raise UserError("--precision bf16 is for CPUs so far: add --device cpu, or take tf32")
    if "torch" in sys.modules:
        _warn("PyTorch is loaded in this process; its oneDNN and Jittor's may clash")

    for name, value in {
        "python_config_path": environment.python_config(),
        "use_cutt": "0", "use_cutlass": "0", "use_nccl": "0", "use_mpi": "0",  # downloads
        "FIX_TORCH_ERROR": "0",  # would import PyTorch
        "gdb_path": "",  # a quarter of a second at every start
    }.items():
        os.environ.setdefault(name, value)
    os.environ["cache_name"] = _cache_name(toolkit)
    # Empty: CPU. Jittor would crash on a compiler without a GPU.
    os.environ["nvcc_path"] = toolkit.nvcc if toolkit else ""
    if toolkit:
        if precision == "float32":  # read by cuBLAS and cuDNN when they are loaded
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        toolkit.load()
    ranks.prepare(cuda.find_nccl(home / ".cache" / "jittor") if toolkit and ranks.size() > 1
                  else None)
    if str(home) != os.path.expanduser("~"):
        # Its home, so that nothing is written to the user's. For good: Jittor's compiler processes
        # look there as well.
        os.environ["HOME"] = os.environ["JITTOR_HOME"] = str(home)

    try:
        with _silence(), _without_cupy(), ranks.mended_mpi():
            jittor = _import_jittor(home)
            if not toolkit:
                quicken_kernels(jittor, onednn_folder(home))
    except ImportError as error:
        _check_libstdcxx(error)
        if isinstance(error, ModuleNotFoundError) and not str(error.name).endswith("_core"):
            raise environment.not_installed(error.name) from None
        raise UserError(f"Jittor's compiled code cannot be loaded ({error}): "
                        f"remove {home}/.cache/jittor/jt* and run again") from None
    except (OSError, RuntimeError) as error:
        _check_libstdcxx(error)
        if toolkit and not getattr(error, "errno", None):  # the dynamic linker's have none
            raise UserError(
                f"CUDA {toolkit.cuda} with cuDNN {toolkit.cudnn} cannot be set up: "
                f"{_in_one_line(error)}; see what `python -m utils.runtime` finds, or run without "
                "a GPU by --device cpu") from None
        if isinstance(error, RuntimeError):
            raise
        raise UserError(f"Jittor cannot be set up: {error}; is {home}/.cache/jittor full or "
                        "not yours? JITTOR_HOME=/another/folder puts it elsewhere") from None
    except SystemExit:  # it does so after recompiling its own compiler helper
        raise UserError("Jittor has renewed its compiled core: "
                        "run the same command again") from None
    _restore_process(jittor)
    _keep_memory()

    if toolkit:
        if not jittor.has_cuda:
            raise UserError("Jittor was built but sees no GPU: use --device cpu, or check "
                            "nvidia-smi and $CUDA_VISIBLE_DEVICES")
        jittor.flags.nvcc_flags = cuda.adapt_flags(jittor.flags.nvcc_flags, gpu)
        jittor.flags.use_cuda_managed_allocator = 0
        # With cuDNN 8 it would let convolutions round to half precision; their default is TF32.
        jittor.flags.use_tensorcore = int(precision == "tf32" and toolkit.cudnn[:1] != "8")
        # After 100 shapes of convolutions it would no longer keep which algorithm is the fastest.
        if jittor.cudnn:
            jittor.cudnn.set_algorithm_cache_size(100_000)
    use_cuda(bool(toolkit))
    onednn = jittor.compile_extern.mkl_ops is not None
    if not (onednn or toolkit):
        _warn("no oneDNN: convolutions will be many times slower; "
              "`pip install -r requirements.txt` brings it (x86-64 Linux)")
    return Runtime("cuda" if toolkit else "cpu", gpu.name if toolkit else _cpu_name(), onednn,
                   jittor.__version__, platform.python_version(),
                   "default" if precision == BF16 else precision, toolkit)  # `start` turns it on


def _keep_memory() -> None:
    """malloc keeps what is freed, or the system makes 70 MB anew at each step of training.

    oneDNN takes memory for each operator and frees it after.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        trim_threshold, mmap_max = -1, -4  # as malloc.h numbers them
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def _cache_name(toolkit: cuda.Toolkit | None) -> str:
    """The name of Jittor's cache folder: one for the CPU, another for CUDA.

    Jittor puts the folder of a core with CUDA behind the CPU's on `sys.path`. With one name for
    both, it would import the CPU's core whenever that was compiled too.
    """
    # Of a parent process or the user's; else Jittor names it after the git branch of this folder.
    name = os.environ.get("cache_name", CACHE_NAME).removesuffix(CUDA_CACHE)
    return name + CUDA_CACHE if toolkit else name


@contextlib.contextmanager
def _without_cupy() -> Iterator[None]:
    """Hides CuPy from Jittor, which would import it and let it take memory of the GPU."""
    before = sys.modules.get("cupy", _MISSING)
    sys.modules["cupy"] = None  # `import cupy` raises ImportError
    try:
        yield
    finally:
        if before is _MISSING:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before


def _in_one_line(error: Exception) -> str:
    """The text of an error of Jittor and of its cause, without the middle of a long text."""
    texts = [str(found) for found in (error, error.__context__) if found]
    line = " ".join(re.sub(r"\x1b\[[\d;]*[mK]", "", ": ".join(texts)).split())  # without colours
    return line if len(line) <= 400 else f"{line[:150]} ... {line[-245:]}"


def _import_jittor(home: Path) -> ModuleType:
    import jittor_utils  # light: finds g++ and the cache folder

    if not provide_onednn(home):
        os.environ["use_mkl"] = "0"  # or it would be downloaded from a university's server
    core = "cu*/jittor_core*.so" if os.environ["nvcc_path"] else "jittor_core*.so"
    if not any(Path(jittor_utils.cache_path).glob(core)):
        print("Jittor compiles its core, once for this environment: a minute or two on 2 cores",
              file=sys.stderr, flush=True)
    log = jittor_utils.LOG
    if os.environ.get("log_v", "0") == "0":
        # Jittor's information lines go, its warnings, errors and progress stay.
        log.log_silent = 0
        log._log = _log_quietly
    # On a GPU, which waits for it, the core is compiled as Jittor does it.
    with contextlib.nullcontext() if os.environ["nvcc_path"] else quick_core():
        import jittor

    return jittor


def _check_libstdcxx(error: Exception) -> None:
    """Raises a UserError if an error is that of a libstdc++ that is older than g++'s."""
    found = re.search(r"(\S*libstdc\+\+\S*): version `(\S+)' not found", str(error))
    if found:
        raise UserError(
            f"{found[1]}: is older than the libstdc++ of g++ (it lacks {found[2]}), and is loaded "
            "in its place; `unset LD_LIBRARY_PATH`, or for conda's `conda install -c conda-forge "
            "libstdcxx-ng`") from None


def _log_quietly(level: str, verbose: int, *message) -> None:
    text = "".join(str(part() if callable(part) else part) for part in message)
    if level in "we":
        print(f"jittor: {text}", file=sys.stderr, flush=True)
    elif level == "f":
        raise RuntimeError(text)


@contextlib.contextmanager
def _silence():
    """While Jittor is imported: none of its information lines, and nothing on stdout."""
    silent = os.environ.get("log_silent")
    if os.environ.get("log_v", "0") == "0":
        os.environ["log_silent"] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.environ.pop("log_silent", None)
        if silent is not None:
            os.environ["log_silent"] = silent


def _restore_process(jittor) -> None:
    """Undoes what importing Jittor did to the whole process."""
    import jittor_utils

    jittor.flags.log_silent = int(os.environ.get("log_silent", "0"))
    # Its compiler processes would wait for work that does not come, and outlive a killed parent.
    if jittor_utils.pool_size:
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0
        atexit.unregister(jittor_utils.pool_cleanup)
    atexit.register(_let_threads_settle)  # runs before Jittor's own
    # Its handlers end the process at once, on Ctrl-C and when a child process is killed.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGCHLD):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)
        if ranks.size() > 1:  # these would wait for the others, who wait for this one
            for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(number, signal.SIG_DFL)


def _let_threads_settle() -> None:
    """Waits, two seconds at most, until all other threads sleep.

    At its exit Jittor tells the threads that compile to end, and joins them. One that has not begun
    to run by then, on a busy machine, would miss the word, and the process hang for ever.
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
    """The `cuda.Gpu` and the `cuda.Toolkit` for it; (None, None) means CPU.

    Raises:
        UserError: `device` is "cuda" and cannot be had.
    """
    if device == "cpu":
        return None, None
    try:
        gpu = cuda.find_gpu()
        return gpu, cuda.find_toolkit(home / ".cache" / "jittor", gpu)
    except UserError as problem:
        if device == "cuda":
            raise UserError(f"no CUDA: {problem}; --device cpu runs without") from None
        if not isinstance(problem, cuda.NoGpu):  # worth a word: there is a GPU, and it lies idle
            _warn(f"the GPU is not used: {problem}")
    return None, None


def _check_precision(precision: str, onednn: bool) -> None:
    if precision == BF16 and not (onednn and cpu_instructions() & AVX512_BF16 == AVX512_BF16):
        raise UserError(f"--precision bf16: {_cpu_name()} has no AVX512-BF16 instructions, or "
                        "oneDNN is missing; leave the flag out to compute in float32")


def _cpu_name() -> str:
    cores = f"{len(os.sched_getaffinity(0))} cores"
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return f"{found.group(1).strip()}, {cores}" if found else cores
