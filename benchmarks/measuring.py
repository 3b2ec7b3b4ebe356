"""Measures time and memory for the benchmarks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

# The common flags that have no effect on a benchmark without a dataset.
NO_DATASET = ("dataset_names", "dataset_dir", "output_dir", "seed", "num_workers")


def seconds_of(call: Callable[[], object]) -> float:
    """The duration of a call, which must return only when all is computed."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def resident_bytes() -> int | None:
    """The memory that this process holds; None if the system does not tell."""
    return _status("VmRSS")


def most_resident_bytes() -> int | None:
    """The largest memory that this process has held; None if the system does not tell."""
    return _status("VmHWM")  # getrusage has the parent's in it


def _status(field):
    with contextlib.suppress(OSError, KeyError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(dict(line.split(":", 1) for line in lines)[field].split()[0])
    return None
