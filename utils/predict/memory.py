"""Checks that a prediction fits into the free memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from model import NETWORKS
from utils.errors import UserError

FIXED = 200_000_000  # bytes that a prediction takes for an image of any size


def free_bytes() -> int | None:
    """Free memory of this machine within its container's limit; None if unknown."""
    free = []
    # "max" stands for no limit.
    with contextlib.suppress(OSError, IndexError, TypeError, ValueError):
        available = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
        free.append(1024 * int(available.split()[0]))
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
        free.append(limit - int((group / "memory.current").read_text()) + int(cached[1]))
    return min(free, default=None)


def check_memory(
    sizes: Iterable[tuple[str, tuple[int, int] | None]], model_names: Sequence[str],
    tile: int | None,
) -> str:
    """One line about the memory for the largest image; raises a UserError if less is free.

    Args:
        sizes: path and (height, width) of each image; images of unknown size are left out.
    """
    known = [(*[min(side, tile or side) for side in size], file) for file, size in sizes if size]
    if not known:
        return "no image that can be read"
    height, width, file = max(known, key=lambda size: size[0] * size[1])
    name = max(model_names, key=lambda name: NETWORKS[name].bytes_per_pixel)
    needed, free = FIXED + NETWORKS[name].bytes_per_pixel * height * width, free_bytes()
    line = f"{width}x{height} needs about {needed / 1e9:.1f} GB of memory with {name}"
    line += "" if free is None else f", {free / 1e9:.1f} GB are free"
    if free is not None and needed > free:
        cure = "smaller tiles" if tile else "tiles"
        raise UserError(f"{file}: {line}; close other programs, or predict {cure} (--tile)")
    return f"largest {line}"
