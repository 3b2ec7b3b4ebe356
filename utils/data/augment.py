"""Augments the images of training: crops, scale, light, orientation.

Every choice is a function of a key, (seed, epoch, index of the image), so that a resumed run needs
no state of a generator. Each kind of choice has its own random numbers: one option does not change
another.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
from scipy import ndimage

from utils.data.images import resize_image, resize_mask, to_float
from utils.recipe import Recipe

Key = Tuple[int, int, int]  # (seed, epoch, index)

CONNECTED = np.ones((3, 3))  # targets are 8-connected regions of a mask

# The ranges of --photometric, for grey levels of 0 to 1.
LARGEST_GAMMA, LARGEST_CONTRAST = 1.5, 2.0  # the smallest is 1/largest
LARGEST_SHIFT, LARGEST_NOISE = 0.2, 0.02  # of brightness, either way; a standard deviation

# Appended to the key, to seed one generator per kind of choice.
_ORIENTATION, _CORNER, _TARGET, _SCALE, _LIGHT = (), (1,), (2,), (3,), (4,)


def augmented(
    image: np.ndarray, mask: np.ndarray, recipe: Recipe, key: Key
) -> tuple[np.ndarray, np.ndarray]:
    """The image as float32 in [0, 1] and its mask, as training sees them.

    Args:
        image: H×W uint8 or uint16.
        mask: H×W uint8.
        recipe: its augment, crop, target_crops, scale and photometric say what changes.
    """
    if recipe.crop:
        image, mask = _cut(image, mask, recipe, key)
    image = to_float(image)
    if recipe.photometric:
        image = change_light(image, key)
    if recipe.augment:
        # Only squares are transposed: the batch has one shape.
        square = image.shape[0] == image.shape[1]
        number = orientation(key) & (7 if square else 3)
        image, mask = orient(image, number), orient(mask, number)
    return image, mask


def _cut(image, mask, recipe, key):
    side = recipe.crop
    if recipe.scale != 1:
        side = max(1, round(side / log_uniform(_generator(key, _SCALE), recipe.scale)))
    place = target_corner(mask, side, recipe.target_crops, key) if recipe.target_crops else None
    place = place or corner(image.shape, side, key)
    size = (recipe.crop, recipe.crop)
    return (resize_image(crop_at(image, side, place), size),
            resize_mask(crop_at(mask, side, place), size))


def _generator(key: Key, kind: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng([*key, *kind])


def log_uniform(generator: np.random.Generator, factor: float) -> float:
    """A number from 1/factor to factor, evenly distributed in its logarithm."""
    return float(factor ** generator.uniform(-1, 1))


def corner(shape: tuple[int, int], crop: int, key: Key) -> tuple[int, int]:
    """First row and column of a crop; all places are equally likely."""
    room = [max(0, side - crop) + 1 for side in shape]
    row, column = _generator(key, _CORNER).integers(room)
    return int(row), int(column)


def target_corner(
    mask: np.ndarray, crop: int, fraction: float, key: Key
) -> tuple[int, int] | None:
    """First row and column of a crop that contains a target of the mask.

    The target is drawn among the targets of the mask, and its place in the crop among all places
    where the target is whole.

    Args:
        fraction: of epochs with such a crop.

    Returns:
        None in the other epochs, and if the mask has no target.
    """
    generator = _generator(key, _TARGET)
    if generator.random() >= fraction or not mask.any():
        return None
    targets = ndimage.find_objects(ndimage.label(mask, CONNECTED)[0])
    target = targets[generator.integers(len(targets))]
    place = []
    for extent, length in zip(target, mask.shape):
        # A target longer than the crop fills it.
        ends = sorted((extent.stop - crop, extent.start))
        first, last = np.clip(ends, 0, max(0, length - crop))
        place.append(int(generator.integers(first, last + 1)))
    return place[0], place[1]


def crop_at(image: np.ndarray, crop: int, corner: tuple[int, int]) -> np.ndarray:
    """Cuts crop×crop pixels from an H×W image, and mirrors the image where it is too small."""
    row, column = corner
    part = image[row : row + crop, column : column + crop]
    return np.pad(part, [(0, crop - side) for side in part.shape], "symmetric")


def change_light(image: np.ndarray, key: Key) -> np.ndarray:
    """Changes gamma, contrast and brightness and adds noise, as another camera would.

    Args:
        image: H×W float32 in [0, 1]; so is the result.
    """
    generator = _generator(key, _LIGHT)
    changed = image ** log_uniform(generator, LARGEST_GAMMA)
    mean = changed.mean()
    changed = mean + log_uniform(generator, LARGEST_CONTRAST) * (changed - mean)
    changed += generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT)
    changed += generator.uniform(0, LARGEST_NOISE) * generator.standard_normal(image.shape)
    return np.clip(changed, 0, 1).astype(np.float32)


def orientation(key: Key) -> int:
    """One of the eight orientations of a square image, 0 to 7; all are equally likely."""
    return int(_generator(key, _ORIENTATION).integers(8))


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Flips an H×W image up-down, left-right and transposes it, by bits 0, 1 and 2."""
    image = image[::-1] if orientation & 1 else image
    image = image[:, ::-1] if orientation & 2 else image
    return image.T if orientation & 4 else image
