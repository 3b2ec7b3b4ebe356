"""Writes the folder of a dataset, all of it or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Tuple

import numpy as np
from PIL import Image

from utils.data.images import FULL
from utils.files import write_text

REPORT = "prepared.txt"
Sample = Tuple[str, np.ndarray, np.ndarray]  # name, H×W image, H×W mask of 0 and 1


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


def write_dataset(folder: Path, lists: Mapping[str, Iterable[Sample]]) -> None:
    """Writes images/, masks/ and the lists of a new dataset in NUDT-SIRST's layout.

    Args:
        folder: the dataset's folder, which does not exist.
        lists: name of the list → its images.
    """
    with workplace(folder) as work:
        built, names = work / "built", {}
        for kind in ("images", "masks"):
            (built / kind).mkdir(parents=True)
        for split, samples in lists.items():
            names[split] = []
            for name, image, mask in samples:
                Image.fromarray(image).save(built / "images" / f"{name}.png")
                Image.fromarray(mask * np.uint8(FULL)).save(built / "masks" / f"{name}.png")
                names[split].append(name)
        write_lists(built, names)
        os.replace(built, folder)
