"""How much memory a prediction needs on the CPU, and how much there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from model import NETWORKS
from utils.data.decoding import Page, read_size
from utils.errors import UserError
from utils.runtime import ranks

SYSTEM = Path("/")  # where proc/ and sys/ lie
# Of a control group: its limit, what it uses, and of this the cache (in memory.stat).
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
FIXED = 200_000_000  # bytes that a prediction takes whatever the size of the image


def needed_bytes(model_name: str, height: int, width: int) -> int:
    """About the memory that a network takes for one image."""
    return FIXED + NETWORKS[model_name].bytes_per_pixel * height * width


def free_bytes() -> int | None:
    """What this machine, container or job can still give; None if it does not say."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (SYSTEM / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free.append(1024 * int(fields["MemAvailable"].split()[0]))
    for group, (limit, used, cache) in _groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no number: no limit
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free.append(int((group / limit).read_text()) - int((group / used).read_text())
                        + int(stat[cache]))  # which is given back
    return min(free, default=None)


def _groups() -> Iterator[tuple[Path, Sequence[str]]]:
    """The control groups around us, by both versions of them, and the names in `_V1` or `_V2`."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (SYSTEM / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root = SYSTEM / "sys/fs/cgroup" / ("memory" if kinds else "")
        # In a container the path may be that on the host, of which only the root is here.
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            yield place, _V1 if kinds else _V2


def check_memory(files: Sequence[Path | Page], model_names: Sequence[str], tile: int | None) -> str:
    """One line on the memory that the largest image will take.

    Raises:
        UserError: there is less.
    """
    sizes = {}
    for file in tqdm(files, "looking at sizes", unit="image", leave=False, disable=None):
        size = read_size(file)
        if size:
            sizes[file] = tuple(min(n, tile or n) for n in size)
    if not sizes:
        return "no image that can be read"
    file, (height, width) = max(sizes.items(), key=lambda item: item[1][0] * item[1][1])
    needed = {name: needed_bytes(name, height, width) for name in model_names}
    name = max(needed, key=needed.get)
    free = free_bytes()
    if free is not None:
        free //= ranks.on_this_host()
    what = f"a tile of {width}x{height}" if tile else f"{width}x{height}"
    if free is not None and needed[name] > free:
        least = min(NETWORKS, key=lambda name: NETWORKS[name].bytes_per_pixel)
        ways = "close other programs, "
        if needed_bytes(least, height, width) <= free:
            ways += f"take {least} ({_gigabytes(needed_bytes(least, height, width))}), "
        raise UserError(
            f"{file}: {what} needs about {_gigabytes(needed[name])} of memory with {name} and "
            f"{_gigabytes(free)} are free; {ways}or cut images into "
            f"{'smaller ' if tile else ''}tiles (--tile, see --help)"
        )
    line = f"largest {what}, about {_gigabytes(needed[name])} of memory with {name}"
    return line if free is None else f"{line}, {_gigabytes(free)} are free"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
