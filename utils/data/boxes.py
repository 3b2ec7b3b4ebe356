"""Makes masks from boxes and points."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from utils.data.annotations import Box, Drawn, read_annotations
from utils.data.find import SHOWN, Found
from utils.data.images import FULL, read_gray
from utils.data.layouts import Layout
from utils.errors import UserError, listed

# Tried on the training lists of NUDT-SIRST and NUAA-SIRST, see "Masks from boxes" in docs/usage.md.
RING = 2  # width in pixels of the ring around a box, whose pixels are background
FRACTION = 0.3  # of the highest contrast: the lowest contrast of a target's pixel
FAINTEST = 0.5  # grey levels: with a lower highest contrast the whole box is target
REACH = 6  # a point stands for a box that reaches this many pixels to each side
NEAR = 2  # most pixels, in x and in y, from a point to the pixel of the highest contrast
OUTSIDE = 1  # pixels by which a box may leave the image: tools round, and count from 0 or 1


def target_in(image: np.ndarray, box: Box) -> tuple[tuple[slice, slice], np.ndarray]:
    """Finds the target in a box or around a point.

    The background is the plane through the ring around the box, by least squares. Contrast is the
    grey level above the plane, or below it if the pixel that differs most lies below. The target is
    the pixels of at least `FRACTION` of the highest contrast that are 8-connected with its pixel.

    Args:
        image: H×W grey levels.
        box: in pixels; parts outside the image are cut off.

    Returns:
        The window of the box in the image, and the target in the window, boolean.
    """
    point = box.left == box.right
    own = (_pixels(box.top, box.bottom, image.shape[0]),
           _pixels(box.left, box.right, image.shape[1]))
    window = _grown(own, REACH * point, image.shape)
    outer = _grown(window, RING, image.shape)
    inner = _within(window, outer)
    ring = np.ones(image[outer].shape, bool)
    ring[inner] = not ring[inner].size < ring.size  # without a ring the box is its own background
    # Coordinates from the middle of the box: a side without ring then adds no slope.
    coordinates = [axis - axis[inner].mean() for axis in np.mgrid[outer]]
    plane = np.stack([np.ones(ring.shape), *coordinates], axis=-1)
    levels = image[outer].astype(np.float64)
    contrast = (levels - plane @ np.linalg.lstsq(plane[ring], levels[ring], rcond=None)[0])[inner]
    near = np.zeros(contrast.shape, bool)
    near[_within(_grown(own, NEAR * point, image.shape), window)] = True
    if contrast[near].max() < -contrast[near].min():
        contrast = -contrast
    peak = np.unravel_index(np.where(near, contrast, -np.inf).argmax(), near.shape)
    if contrast[peak] < FAINTEST:
        return window, near
    labels, _ = ndimage.label(contrast >= FRACTION * contrast[peak], np.ones((3, 3)))
    return window, labels == labels[peak]


def _pixels(low: float, high: float, side: int) -> slice:
    """The pixels between two edges, rounded; at least one. For a point, the pixel that holds it."""
    first = int(np.floor(low if low == high else low + 0.5))
    first = min(max(first, 0), side - 1)
    return slice(first, min(max(int(np.floor(high + 0.5)), first + 1), side))


def _grown(window: tuple[slice, slice], by: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    return tuple(slice(max(axis.start - by, 0), min(axis.stop + by, side))
                 for axis, side in zip(window, shape))


def _within(window: tuple[slice, slice], outer: tuple[slice, slice]) -> tuple[slice, slice]:
    return tuple(slice(axis.start - out.start, axis.stop - out.start)
                 for axis, out in zip(window, outer))


def draw_mask(image: np.ndarray, drawn: Drawn) -> np.ndarray:
    """The mask of an image, H×W uint8 of 0 and 255, from boxes and points.

    Raises:
        UserError: the annotations are of an image of another size, a box leaves the image, or more
            than half of the image would be target.
    """
    height, width = image.shape
    size = f"the image is {width}x{height} (width x height)"
    if drawn.size and drawn.size != (width, height):
        raise UserError(f"{drawn.file}: was drawn on {drawn.size[0]}x{drawn.size[1]}, but "
                        f"{size}; export the boxes for this image")
    mask = np.zeros(image.shape, np.uint8)
    for box in drawn.boxes:
        if drawn.fractions:
            box = Box(*np.multiply(box, (width, height, width, height)))
        if min(box) < -OUTSIDE or box.right > width + OUTSIDE or box.bottom > height + OUTSIDE:
            edges = " to ".join(f"({x:g}, {y:g})" for x, y in (box[:2], box[2:]))
            raise UserError(f"{drawn.file}: a box from {edges} leaves its image, {size}; correct "
                            "the box")
        window, target = target_in(image, box)
        mask[window][target] = FULL
    if np.count_nonzero(mask) > mask.size / 2:  # `read_levels` would take it for no mask
        raise UserError(f"{drawn.file}: more than half of the image would be target; draw the "
                        "boxes around the targets alone")
    return mask


def make_masks(
    found: Found, folder: Path
) -> tuple[dict[str, Layout], dict[Path | None, str]]:
    """Makes the masks of a dataset that has annotations; adds lines to `found.notes`.

    Args:
        found: the dataset; the layouts' `masks` are the files or folders of the annotations.
        folder: the masks go there, into a folder per list.

    Returns:
        List → its files, with the made masks; and image's file → why it has no mask.

    Raises:
        UserError: as `read_annotations`.
    """
    layouts, made, problems, read = {}, {}, {}, {}
    images = {layout.images: layout.image_files() for layout in found.layouts.values()}
    _check_names(found, images)
    for split, names in found.names.items():
        layout = found.layouts[split]
        files = images[layout.images]
        if layout.masks not in read:  # else both lists have the same annotations
            known = {name for other in found.layouts.values() if other.masks == layout.masks
                     for name in images[other.images]}
            read[layout.masks] = read_annotations(layout.masks, known, layout.image_suffix,
                                                  [each.list for each in found.layouts.values()])
        kind, drawn = read[layout.masks]
        layouts[split] = layout._replace(masks=folder / split, mask_suffix="")
        for name in tqdm(names, f"masks of {split}", unit="image", leave=False, disable=None):
            one = drawn.get(name, Drawn(layout.masks, []))
            try:
                mask = draw_mask(read_gray(files[name]), one)
                made[files[name]] = name, one.boxes  # once, if the image stands on both lists
            except (KeyError, UserError) as error:
                mask = np.zeros((1, 1), np.uint8)  # else `read_pairs` would miss the mask as well
                if isinstance(error, UserError):
                    problems[files[name]] = str(error)
            place = folder / split / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(place)
    boxes = [box for _, own in made.values() for box in own]
    points = sum(box.left == box.right for box in boxes)
    empty = [name for name, own in made.values() if not own]
    found.notes.extend([
        f"masks made from {kind}: {len(boxes) - points} boxes and {points} points in "
        f"{len(made) - len(empty)} images",
        f"  rule: 8-connected pixels of at least {FRACTION:g} of the highest contrast to the plane "
        f"through the ring of {RING} pixels around the box",
        f"  images without box or point, so without target: {len(empty)}{': ' * bool(empty)}"
        f"{listed(empty, SHOWN)}"])
    return layouts, problems


def _check_names(found: Found, images: Mapping[Path, Collection[str]]) -> None:
    """Raises a UserError if one annotation may belong to an image of either list.

    This is so if both lists share one folder of annotations and an image name is in both.
    """
    train, test = found.layouts.values()
    both = set(images[train.images]).intersection(images[test.images])
    if both and train.images != test.images and train.masks == test.masks:
        own = [str(found.shown(layout.images.parent / train.masks.name))
               for layout in (train, test)]
        raise UserError(f"{train.masks}: {min(both)} may be of {found.shown(train.images)}/ or of "
                        f"{found.shown(test.images)}/; sort the annotations into {own[0]} and "
                        f"{own[1]}, and give --masks_from {train.masks.name}")
