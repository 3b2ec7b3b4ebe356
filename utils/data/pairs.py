"""An image and its mask, read and checked together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.ahead import read_ahead
from utils.data.decoding import KINDS, read_orientation
from utils.data.images import read_gray, read_levels, resize_mask
from utils.data.layouts import Layout
from utils.errors import UserError


def describe_sizes(shapes: Iterable[tuple[int, int]]) -> str:
    """The one size as width x height, or the number of sizes with the smallest and the largest."""
    ordered = sorted(set(shapes), key=lambda s: (s[0] * s[1], s))
    ends = [_width_x_height(shape) for shape in (ordered[0], ordered[-1])]
    return ends[0] if len(ordered) == 1 else f"{len(ordered)} sizes from {' to '.join(ends)}"


def _width_x_height(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]}"


@dataclass
class Pair:
    """An image and its mask as they were read.

    Attributes:
        name: the image's name on the list.
        files: the files of image and mask; None if missing.
        image: H×W uint8 or uint16.
        levels: the mask's levels, H×W uint8, 0 to 255.
        fitted: name and both sizes, if the mask was resized to its image.
        problems: one line per unusable file.
    """

    name: str
    files: tuple[Path | None, Path | None]
    image: np.ndarray | None = None
    levels: np.ndarray | None = None
    fitted: str = ""
    problems: list[str] = field(default_factory=list)


def read_pairs(
    names: Sequence[str], layout: Layout, title: str, num_workers: int = 4,
    masks_required: bool = True, fit_masks: bool = False,
) -> Iterator[Pair]:
    """Reads images with their masks, in the order of the names, under a progress bar.

    Args:
        title: the bar's title.
        fit_masks: True resizes a mask to its image if their ratios of sides agree within a pixel.

    Raises:
        UserError: there is no folder of images, or of masks.
    """
    images = layout.image_files()
    masks = layout.mask_files(names) if masks_required else {}

    by_stem = lru_cache(_by_stem)  # a folder may lack masks by the thousand

    def read(name: str) -> Pair:
        pair = Pair(name, (images.get(name), masks.get(name)))
        pair.image = _read(pair, pair.files[0], layout.images, "image", read_gray, by_stem)
        if masks_required:
            pair.levels = _read(pair, pair.files[1], layout.masks, "mask", read_levels, by_stem)
            if not pair.problems and pair.image.shape != pair.levels.shape:
                _fit(pair, fit_masks)
        return pair

    workers = max(1, num_workers)
    with ThreadPoolExecutor(workers) as pool:
        for _, pair in tqdm(read_ahead(pool, names, read, 2 * workers), title, len(names),
                            unit="image", leave=False, disable=None):  # None: no bar in a log file
            yield pair.result()


def _read(
    pair: Pair, path: Path | None, folder: Path, kind: str, read: Callable[[Path], np.ndarray],
    by_stem: Callable[[Path], dict[str, Path]],
) -> np.ndarray | None:
    if path is None:
        place = folder / pair.name
        other = by_stem(place.parent).get(place.name)
        pair.problems.append(
            f"{other}: no type of {kind} that is read ({KINDS}); save it as PNG" if other
            else f"{folder}/{pair.name}: no such {kind} ({KINDS}); add the file")
        return None
    try:
        return read(path)
    except UserError as error:
        pair.problems.append(str(error))
        return None


def _by_stem(folder: Path) -> dict[str, Path]:
    """The files of a folder by their stems; empty if there is no such folder."""
    with contextlib.suppress(OSError):
        return {path.stem: path for path in sorted(folder.iterdir(), reverse=True)}
    return {}


def _fit(pair: Pair, fit_masks: bool) -> None:
    """Resizes a mask of another size than its image, or says how to mend it."""
    (height, width), (rows, columns) = pair.levels.shape, pair.image.shape
    mask_size, image_size = map(_width_x_height, (pair.levels.shape, pair.image.shape))
    similar = (abs(width * rows / height - columns) <= 1
               and abs(height * columns / width - rows) <= 1)
    if fit_masks and similar:
        pair.levels = resize_mask(pair.levels, pair.image.shape)
        pair.fitted = f"{pair.name} ({mask_size} to {image_size})"
        return
    kinds = {kind: read_orientation(file) for kind, file in zip(("image", "mask"), pair.files)}
    turned = [kind for kind, orientation in kinds.items() if orientation > 4]
    cure = "give both the same size"
    if (height, width) == (columns, rows) and len(turned) == 1:
        kind = turned[0]
        cure = (f"the {kind}'s EXIF orientation {kinds[kind]} explains the turn: save the {kind} "
                "with its pixels turned and without this tag")
    elif similar:
        cure += (", or let python prepare_dataset.py FOLDER --name NEW_NAME --fit_masks resize "
                 "the mask")
    pair.problems.append(f"{pair.files[1]}: the mask is {mask_size} but the image is {image_size} "
                         f"(width x height); {cure}")
