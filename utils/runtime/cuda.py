"""Finds the GPU, and a CUDA toolkit with cuDNN that Jittor 1.3.11 can be compiled with.

Jittor knows CUDA 11 and 12 with cuDNN 8: such a toolkit is used as it is. Any other pair of
CUDA 11 to 13 with cuDNN 8 or 9 gets a *toolkit view*, a folder of links with the shape that Jittor
expects, the headers of `cuda_shims/` over it, and a wrapper around nvcc. cuDNN and the libraries
may come from the toolkit, the system, NVIDIA's PyPI wheels, or a PyTorch installation.

A view is named after everything it was made from, so it never changes: another cuDNN or another
shim makes another view, and Jittor, which compares compiler commands, then compiles its CUDA part
anew (and not its CPU core).

State: run on one H100 with CUDA 13.0 and cuDNN 9.14 (`docs/gpu.md`). CUDA 12 with cuDNN 9 was not
compiled.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from utils.environment import ROOT
from utils.errors import UserError
from utils.files import link_or_copy

WHEELS = Path(ROOT, "requirements-cuda13.txt")
SHIMS = Path(__file__).with_name("cuda_shims")

# What Jittor compiles against: header and library.
_COMPONENTS = {"cudart": "cuda_runtime.h", "cublas": "cublas.h", "curand": "curand.h",
               "cufft": "cufft.h", "cusparse": "cusparse.h"}
_LIBRARY = re.compile(
    r"lib(cudart|cudadevrt|cublas|cublasLt|curand|cufft|cusparse|nvJitLink|nvrtc[\w-]*|cudnn\w*)"
    r"\.(a|so(\.[\d.]+)?)$")
# In the order in which they need each other.
_PRELOADED = ("cudart", "nvJitLink", "nvrtc", "cublasLt", "cublas", "curand", "cufft", "cusparse",
              "cudnn_graph", "cudnn_ops", "cudnn_cnn", "cudnn_heuristic",
              "cudnn_engines_precompiled", "cudnn_engines_runtime_compiled", "cudnn")

_WRAPPER = """\
#!/bin/sh
# Jittor asks for C++14, and the headers of CUDA 13 need C++17.
for argument do
    shift
    [ "$argument" = -std=c++14 ] && argument=-std=c++17
    set -- "$@" "$argument"
done
exec {nvcc} "$@"
"""


class NoGpu(UserError):
    """There is no GPU, or it is hidden; nothing needs repair."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU, as the NVIDIA driver reports it."""

    name: str
    capability: int  # 90 for 9.0
    driver: tuple[int, int]  # the newest CUDA that it supports


@dataclass(frozen=True)
class Toolkit:
    """The CUDA toolkit that Jittor is compiled and linked with."""

    nvcc: str
    cuda: str  # "13.0"
    cudnn: str  # "9.24.0"
    origin: str  # where the parts come from, in words for the user
    preload: tuple[Path, ...] = ()

    def load(self) -> None:
        """Loads the libraries of a view, so that $LD_LIBRARY_PATH cannot replace them.

        Raises:
            UserError: a library cannot be loaded.
        """
        for path in self.preload:
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                raise UserError(f"a CUDA library cannot be loaded: {error}") from None


def find_gpu() -> Gpu:
    """Asks the NVIDIA driver for the first GPU.

    Raises:
        NoGpu: this machine has no GPU.
        UserError: the GPU or its driver does not work.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoGpu("this machine has no NVIDIA driver (libcuda.so.1)") from None
    code = driver.cuInit(0)
    if code not in (0, 100):  # 100: no device
        raise UserError(
            f"the NVIDIA driver does not start (error {code}); see what nvidia-smi says")
    number, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)

    def ask(function, *arguments):
        getattr(driver, function)(ctypes.byref(number), *arguments)
        return number.value

    if not ask("cuDeviceGetCount"):
        raise NoGpu("the NVIDIA driver shows no GPU (is $CUDA_VISIBLE_DEVICES set?)")
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    major, minor = (ask("cuDeviceGetAttribute", what, device) for what in (75, 76))
    newest = ask("cuDriverGetVersion")
    return Gpu(name.value.decode(), 10 * major + minor, (newest // 1000, newest % 1000 // 10))


def find_toolkit(jittor_cache: str | Path, gpu: Gpu) -> Toolkit:
    """Finds a toolkit that Jittor can use for the GPU; makes a view if necessary.

    Args:
        jittor_cache: Jittor's folder `.cache/jittor`, which holds the views.
        gpu: from `find_gpu`.

    Raises:
        UserError: no toolkit was found.
    """
    views = Path(jittor_cache) / "l2sknet-cuda"
    problems = []
    for nvcc in _compilers(views):
        try:
            return _use(nvcc, views, gpu)
        except UserError as error:
            problems.append(str(error))
    if gpu.driver >= (13, 0) and gpu.capability >= 75:
        advice = f"`{sys.executable} -m pip install -r {WHEELS}` brings all of CUDA 13"
    else:
        advice = "install CUDA 12 with cuDNN (`pip install nvidia-cudnn-cu12` is enough for cuDNN)"
    raise UserError(f"{problems[0] if problems else 'no CUDA compiler (nvcc) was found'}; {advice}")


def adapt_flags(flags: str, gpu: Gpu) -> str:
    """Removes --use_fast_math from Jittor's nvcc flags, and adds code for GPUs newer than sm_90.

    Jittor makes machine code for sm_90 at most, which newer GPUs cannot run. The driver can compile
    the intermediate code that is added here for any GPU.
    """
    newest = re.search(r"-arch=compute_(\d+)", flags)
    if newest and gpu.capability > int(newest.group(1)):
        flags += f" -code=compute_{newest.group(1)} "
    return flags.replace("--use_fast_math", "")


def find_nccl(jittor_cache: str | Path) -> tuple[Path, Path]:
    """Finds the folders of NCCL's headers and of its libnccl.so.

    Raises:
        UserError: NCCL is not installed.
    """
    wheels = [(site / "nvidia/nccl/include", site / "nvidia/nccl/lib") for site in _sites()]
    for include, lib in _system_folders() + wheels:
        if not (include / "nccl.h").is_file():
            continue
        if (lib / "libnccl.so").is_file():
            return include, lib
        library = lib / "libnccl.so.2"  # the only name in the wheels
        if library.is_file():
            view = Path(jittor_cache, "l2sknet-nccl", _digest({}, {}, library))
            view.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # of another rank
                link_or_copy(library, view / "libnccl.so")
            return include, view
    raise UserError("NCCL is missing, with which GPUs exchange sums; install it: "
                    f"`{sys.executable} -m pip install nvidia-nccl-cu12` (or -cu13)")


# ---------------------------------------------------------------------------- searching


def _compilers(views):
    """Paths of nvcc, sorted by preference; only $nvcc_path if it is set."""
    demanded = os.environ.get("nvcc_path")
    if demanded and views not in Path(demanded).parents:  # a view was set by a parent process
        return [demanded]
    paths = sorted(views.parent.glob("jtcuda/*/bin/nvcc"))  # of jittor_utils.install_cuda
    paths += [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"]
    paths += sorted(Path("/usr/local").glob("cuda-*/bin/nvcc"), reverse=True)
    paths += [site / "nvidia/cu13/bin/nvcc" for site in _sites()]
    return list(dict.fromkeys(str(path) for path in paths if path and os.path.isfile(path)))


def _sites():
    """Folders with NVIDIA's Python packages: this Python's folders first, then others'."""
    names = ("python3", "python", "conda")
    prefixes = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"), sys.base_prefix]
    for found in filter(None, map(shutil.which, names)):
        prefixes += [Path(found).parent.parent, Path(os.path.realpath(found)).parent.parent]
    prefixes += ["/usr/local", Path(os.path.expanduser("~"), ".local")]
    sites = [Path(folder) for folder in sys.path if folder]
    for prefix in filter(None, prefixes):
        for kind in ("site-packages", "dist-packages"):
            sites += sorted(Path(prefix).glob(f"lib/python3*/{kind}"), reverse=True)
    return [site for site in dict.fromkeys(sites) if (site / "nvidia").is_dir()]


def _wheels(major):
    """The folders of NVIDIA's wheels for a CUDA version, without cuDNN's."""
    folders = []
    for site in _sites():
        if major >= 13:
            folders += site.glob(f"nvidia/cu{major}")
        elif any(site.glob(f"nvidia_cuda_runtime_cu{major}-*.dist-info")):
            folders += sorted(path for path in site.glob("nvidia/*")
                              if not re.fullmatch(r"cudnn|cu\d+", path.name))
    return folders


def _use(nvcc, views, gpu):
    """The toolkit of an nvcc, or a view of it; raises a UserError if Jittor cannot use it."""
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError as error:
        raise UserError(f"{nvcc} does not start ({error.strerror})") from None
    release = re.search(r"release (\d+)\.(\d+)", text)
    if not release:
        raise UserError(f"{nvcc} does not tell its version")
    major, version = int(release[1]), ".".join(release.groups())
    if major not in (11, 12, 13):
        raise UserError(f"{nvcc} is of CUDA {version}, and CUDA 11 to 13 can be used")
    if major > gpu.driver[0]:
        raise UserError(f"{nvcc} is of CUDA {version}, and the NVIDIA driver supports CUDA "
                        "{}.{}".format(*gpu.driver))
    if major >= 13 and gpu.capability < 75:
        raise UserError(f"{nvcc} is of CUDA {version}, which no longer supports the {gpu.name}")
    top = _top(nvcc)
    if major < 13 and _has_cudnn8(top, major):
        # Jittor searches beside nvcc and finds nothing beside a wrapper, except Debian's.
        if (Path(os.path.realpath(nvcc)).parent.parent != top and nvcc != "/usr/bin/nvcc"
                and (top / "bin/nvcc").is_file()):
            nvcc = str(top / "bin/nvcc")
        return Toolkit(nvcc, version, "8", f"{top} as it is")
    cudnn = _find_cudnn(top, major)
    if cudnn is None:
        raise UserError(f"CUDA {version} in {top} lacks cuDNN")
    return _view(nvcc, version, top, _wheels(major), cudnn, views)


def _top(nvcc):
    """The toolkit's folder by nvcc's own report, since the nvcc on the PATH may be a wrapper."""
    run = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", "/dev/null"], capture_output=True,
                         text=True)
    told = re.search(r"^#\$ TOP=(.+)$", run.stderr, re.M)
    beside = Path(os.path.realpath(nvcc)).parent.parent
    return Path(os.path.realpath(told.group(1).strip())) if told else beside


def _own_folders(top):
    """A toolkit's folders of headers and of libraries, as NVIDIA, Conda, or the wheels lay it."""
    targets = sorted(top.glob("targets/*-linux"))
    return ([*(target / "include" for target in targets), top / "include"],
            [*(target / "lib" for target in targets), top / "lib64", top / "lib"])


def _system_folders():
    """The (headers, libraries) folders of Linux distributions."""
    multiarch = f"{os.uname().machine}-linux-gnu"
    return [(Path("/usr/include", multiarch), Path("/usr/lib", multiarch)),
            (Path("/usr/include"), Path("/usr/lib", multiarch)),
            (Path("/usr/include"), Path("/usr/lib64")), (Path("/usr/include"), Path("/usr/lib"))]


def _has_cudnn8(top, major):
    """True if Jittor finds cuDNN 8 for this toolkit without help."""
    target = f"{os.uname().machine}-linux"
    folders = [top / "bin", top / "lib64", top / "targets" / target / "lib",
               Path(f"/usr/lib/{target}-gnu"), Path("/usr/lib")]
    names = ["libcudnn_ops_infer.so"] + ["libcudnn_ops_infer.so.8"] * (major == 11)
    return any((folder / name).is_file() for folder in folders for name in names)


def _find_cudnn(top, major):
    """Finds cuDNN 8 or 9; returns (include, lib, version) or None."""
    pairs = [*product(*_own_folders(top)), *_system_folders()]
    pairs += [(site / "nvidia/cudnn/include", site / "nvidia/cudnn/lib") for site in _sites()
              if any(site.glob(f"nvidia_cudnn_cu{major}-*.dist-info"))]
    for include, lib in pairs:
        header = include / "cudnn_version.h"
        text = header.read_text(errors="replace") if header.is_file() else ""
        version = [number for part in ("MAJOR", "MINOR", "PATCHLEVEL")
                   for number in re.findall(rf"define CUDNN_{part} (\d+)", text)[:1]]
        if version and version[0] in "89" and (include / "cudnn.h").is_file() and (
                lib / f"libcudnn.so.{version[0]}").is_file():
            return include, lib, ".".join(version)
    return None


# ---------------------------------------------------------------------------- the view


def _view(nvcc, version, top, wheels, cudnn, views):
    """The toolkit view of these folders; makes it if it does not exist."""
    cudnn_include, cudnn_lib, cudnn_version = cudnn
    includes, libraries = _own_folders(top)
    # Conda's include/ holds the headers of everything else as well.
    includes = [folder for folder in includes if (folder / "cuda_runtime.h").is_file()] or includes
    links = {}
    _link(links, "include", cudnn_include.glob("cudnn*.h"))
    _link(links, "lib64", cudnn_lib.glob("libcudnn*"))
    for folder in (*includes, *(wheel / "include" for wheel in wheels)):
        _link(links, "include", folder.glob("*"))
    for folder in (*libraries, *(wheel / "lib" for wheel in wheels)):
        _link(links, "lib64", folder.glob("lib*"))

    missing = [name for name, header in _COMPONENTS.items()
               if f"include/{header}" not in links or f"lib64/lib{name}.so" not in links]
    missing += [name for name in ("cudnn_ops", "cudnn_cnn")
                if cudnn_version.startswith("9") and f"lib64/lib{name}.so" not in links]
    if "include/cccl" not in links and "include/cub" not in links:
        missing.append("cccl")
    if missing:
        raise UserError(f"CUDA {version} in {top} lacks {', '.join(missing)}")

    new_cuda, new_cudnn = int(version.split(".")[0]) >= 13, cudnn_version.startswith("9")
    if new_cudnn:  # the names of cuDNN 8, which Jittor loads
        for part in ("ops", "cnn"):
            for old in ("infer", "train"):
                links[f"lib64/libcudnn_{part}_{old}.so"] = links[f"lib64/libcudnn_{part}.so"]
    files = {"bin/nvcc": _WRAPPER if new_cuda else "#!/bin/sh\nexec {nvcc} \"$@\"\n"}
    files["bin/nvcc"] = files["bin/nvcc"].format(nvcc=shlex.quote(os.path.abspath(nvcc)))
    if new_cuda:
        links.pop("include/cub", None)
    for shim, wanted in {"cuda_runtime.h": new_cuda, "cub/cub.cuh": new_cuda, "cudnn.h": new_cudnn,
                         "npp.h": "include/npp.h" not in links}.items():
        if wanted:
            real = links.pop(f"include/{shim}", None)
            if real:
                links[f"include/real/{shim}"] = real
            files[f"include/{shim}"] = (SHIMS / shim).read_text()

    folder = views / _digest(links, files, nvcc)
    _make(folder, links, files)
    preload = [f"lib64/lib{name}.so" for name in _PRELOADED]
    return Toolkit(
        str(folder / "bin/nvcc"), version, cudnn_version,
        f"{top} with cuDNN of {cudnn_lib}, by way of {folder}",
        tuple(folder / name for name in preload if name in links))


def _link(links, kind, paths):
    """Adds links to headers or libraries; existing entries stay."""
    for path in sorted(paths):
        if kind == "include":
            links.setdefault(f"include/{path.name}", path)
        elif _LIBRARY.match(path.name):
            links.setdefault(f"lib64/{path.name}", path)
            if ".so." in path.name:  # the wheels have no libX.so to link with
                links.setdefault(f"lib64/{path.name.split('.so.')[0]}.so", path)


def _digest(links, files, nvcc):
    def state(path):
        found = os.stat(path)
        return [os.path.realpath(path), found.st_size, found.st_mtime_ns]

    made_of = [{name: state(path) for name, path in links.items() if path.exists()}, files,
               state(nvcc)]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _make(folder, links, files):
    """Makes the folder if it does not exist; several processes may try at once."""
    def whole() -> bool:
        return all(os.path.lexists(folder / name) for name in (*links, *files))

    if whole():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder.parent) as temporary:
        fresh = Path(temporary, "fresh")
        for name, target in links.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                (fresh / name).symlink_to(os.path.abspath(target))
            except OSError as error:  # gigabytes: not copied
                raise UserError(
                    f"{folder.parent}: no symbolic links can be made here ({error.strerror}), "
                    "which CUDA needs; export JITTOR_HOME=/tmp/jittor-$USER") from None
        for name, text in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text)
        (fresh / "bin/nvcc").chmod(0o755)
        if os.path.lexists(folder) and not whole():  # a part of it was removed
            folder.rename(Path(temporary, "broken"))
        try:
            fresh.rename(folder)
        except OSError:
            if not (folder / "bin/nvcc").is_file():  # else another process was faster
                raise
