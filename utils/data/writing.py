"""Writes the folder of a dataset, all of it or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.files import write_text

REPORT = "prepared.txt"


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """Yields a temporary folder on the file system of `target`, to rename results from."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        yield Path(work)


def write_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Writes each list as NAME.txt, one image's name per line."""
    for name, names in lists.items():
        write_text(folder / f"{name}.txt", "".join(f"{image}\n" for image in names))
