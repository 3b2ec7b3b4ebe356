"""Puts oneDNN from PyPI's wheels where Jittor looks for it, for the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
from pathlib import Path

from utils.files import link_or_copy

AVX512_BF16, AMX = 0xE7, 0x3E7  # bits of dnnl_cpu_isa_t
ARCH_PRCTL, REQUEST_FEATURE, AMX_TILES = 158, 0x1023, 18  # of Linux on x86-64


def onednn_folder(home: Path) -> Path:
    """The folder in which a Jittor with this home expects oneDNN's include/ and lib/."""
    arm = "_aarch64" if platform.machine() == "aarch64" else ""
    return home / ".cache" / "jittor" / "mkl" / f"dnnl_lnx_2.2.0_cpu_gomp{arm}"


def provide_onednn(home: Path) -> bool:
    """Puts oneDNN where Jittor would download it to; returns True if it is there.

    The files come from the wheels `onednn-cpu-gomp` and `onednn-devel-cpu-gomp`. They are copied,
    because all of the user's environments share the folder and it must outlive this environment.
    A complete folder is left alone.
    """
    if os.environ.get("use_mkl") == "0":
        return False
    folder = onednn_folder(home)
    needed = [folder / "lib/libmkldnn.so", folder / "lib/libdnnl.so.2",
              folder / "include/mkldnn.hpp"]
    if all(map(Path.is_file, needed)):
        return True
    library = _installed_file("onednn-cpu-gomp", "libmkldnn.so")
    header = _installed_file("onednn-devel-cpu-gomp", "mkldnn.hpp")
    if library is None or header is None:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "l2sknet.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if all(map(Path.is_file, needed)):  # made by another process meanwhile
            return True
        # Jittor takes the first folder here that is named dnnl*, so a temporary one must not be.
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder.parent) as temporary:
            fresh = Path(temporary, "fresh")
            shutil.copytree(header.parent / "oneapi", fresh / "include" / "oneapi")
            for pattern in ("dnnl*.h*", "mkldnn*.h*"):
                for file in header.parent.glob(pattern):
                    shutil.copy(file, fresh / "include")
            (fresh / "lib").mkdir()
            shutil.copy(library, fresh / "lib" / "libdnnl.so.2")
            for name in ("libmkldnn.so", "libdnnl.so"):
                link_or_copy("libdnnl.so.2", fresh / "lib" / name)
            if os.path.lexists(folder):
                folder.rename(Path(temporary, "broken"))
            fresh.rename(folder)
    return all(map(Path.is_file, needed))


def cpu_instructions() -> int:
    """The instruction sets that oneDNN uses on this processor, as bits of dnnl_cpu_isa_t."""
    return _library().dnnl_get_effective_cpu_isa()


def allow_amx() -> None:
    """Lets oneDNN use AMX, matrix instructions for bfloat16, where the processor has them.

    oneDNN 2.2 leaves AMX out unless it is told to before its first use, and Linux gives the
    registers of AMX only to a process that asks for them.
    """
    if "DNNL_MAX_CPU_ISA" in os.environ or platform.machine() != "x86_64":
        return
    if ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_FEATURE, AMX_TILES) == 0:
        _library().dnnl_set_max_cpu_isa(AMX)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libdnnl.so.2")  # which Jittor has loaded


def _installed_file(package: str, name: str) -> Path | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(package) or ():
            path = Path(file.locate()).resolve()
            if file.name == name and path.is_file():
                return path
    return None
