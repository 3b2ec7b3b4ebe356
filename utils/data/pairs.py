"""An image and its mask, read and checked together."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.data.decoding import KINDS, read_orientation
from utils.data.images import FULL, read_gray, read_levels, resize_mask
from utils.data.layouts import Layout
from utils.errors import UserError


def describe_sizes(shapes: Iterable[tuple[int, int]]) -> str:
    """Sizes as width x height: the one that all have, or how many there are from which to which."""
    ordered = sorted(set(shapes), key=lambda s: (s[0] * s[1], s))
    ends = [f"{width}x{height}" for height, width in (ordered[0], ordered[-1])]
    return ends[0] if len(ordered) == 1 else f"{len(ordered)} sizes from {' to '.join(ends)}"


def has_grey(levels: np.ndarray) -> bool:
    """Whether a mask has levels between background and target."""
    return bool(((levels > 0) & (levels < FULL)).any())


@dataclass
class Pair:
    """An image and its mask as they were read; `problems` has a line for each unusable file."""

    name: str
    image: np.ndarray | None = None  # H×W uint8 or uint16
    levels: np.ndarray | None = None  # of the mask: H×W uint8, 0 to 255
    problems: list[str] = field(default_factory=list)
    files: tuple[Path | None, Path | None] = (None, None)
    fitted: str = ""  # both sizes, if the mask was resized to its image


def read_pairs(
    names: Sequence[str], layout: Layout, num_workers: int = 4, masks_required: bool = True,
    fit_masks: bool = False,
) -> Iterator[Pair]:
    """Reads the images of these names with their masks, in this order.

    Args:
        fit_masks: resizes masks of another size to their image, if the ratio of the sides
            agrees within a pixel.

    Raises:
        UserError: there is no folder of images, or of masks.
    """
    images = layout.image_files()
    masks = layout.mask_files(names) if masks_required else None
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        yield from pool.map(lambda name: _read_pair(name, layout, images, masks, fit_masks), names)


def _read_pair(
    name: str, layout: Layout, images: dict[str, Path], masks: dict[str, Path] | None,
    fit_masks: bool,
) -> Pair:
    pair = Pair(name, files=(images.get(name), (masks or {}).get(name)))
    pair.image = _read(pair, pair.files[0], layout.images, "image", read_gray)
    if masks is None:
        return pair
    pair.levels = _read(pair, pair.files[1], layout.masks, "mask", read_levels)
    image, mask = pair.image, pair.levels
    if image is not None and mask is not None and image.shape != mask.shape:
        sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image)]
        if fit_masks and _same_ratio(mask.shape, image.shape):
            pair.levels = resize_mask(mask, image.shape)
            pair.fitted = f"{name} ({sizes[0]} to {sizes[1]})"
            return pair
        pair.problems.append(
            f"{pair.files[1]}: the mask is {sizes[0]} but the image is {sizes[1]} "
            f"(width x height); {_cure(pair)}"
        )
    return pair


def _same_ratio(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    (height, width), (rows, columns) = mask, image
    return abs(width * rows / height - columns) <= 1 and abs(height * columns / width - rows) <= 1


def _cure(pair: Pair) -> str:
    """What to do about a mask of another size than its image."""
    image, mask = pair.image.shape, pair.levels.shape
    kinds = {kind: read_orientation(file) for kind, file in zip(("image", "mask"), pair.files)}
    turned = [kind for kind, orientation in kinds.items() if orientation > 4]
    if image == mask[::-1] and len(turned) == 1:
        return (f"the {turned[0]}'s EXIF orientation {kinds[turned[0]]} explains the turn: save "
                f"the {turned[0]} with its pixels turned and without this tag")
    if _same_ratio(mask, image):
        return ("give both the same size, or let python prepare_dataset.py --fit_masks resize the "
                "mask")
    return "give both the same size"


def _read(
    pair: Pair, path: Path | None, folder: Path, kind: str, read: Callable[[Path], np.ndarray]
) -> np.ndarray | None:
    if path is None:
        other = min(folder.glob(f"{glob.escape(pair.name)}.*"), default=None)
        pair.problems.append(
            f"{other}: no {kind} that is read ({KINDS}); save it as PNG" if other
            else f"{folder}/{pair.name}: no such {kind} ({KINDS}); add the file")
        return None
    try:
        return read(path)
    except UserError as error:
        pair.problems.append(str(error))
        return None
