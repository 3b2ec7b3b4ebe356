"""What training shows of an image in an epoch: a window of it, its size, its light, its turn.

Every choice is a function of (seed, epoch, index of the image), so a resumed run needs no state of
a generator. Each kind of choice has random numbers of its own: one option does not change another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from utils.data.images import resize_image, resize_mask, to_float

CONNECTED = np.ones((3, 3))  # targets are 8-connected regions of a mask

# The ranges of --photometric, for grey levels of 0 to 1.
LARGEST_GAMMA, LARGEST_CONTRAST = 1.5, 2.0  # the smallest is 1/largest
LARGEST_SHIFT, LARGEST_NOISE = 0.2, 0.02  # of brightness, either way; a standard deviation

# The last number of each generator's seed, after (seed, epoch, index).
_CORNER, _TARGET, _SCALE, _LIGHT = (1,), (2,), (3,), (4,)


class Augmentation(NamedTuple):
    """Changes to the images of training; each field has its name and meaning from `Recipe`."""

    augment: bool = False
    crop: int = 0
    target_crops: float = 0.0
    scale: float = 1.0
    photometric: bool = False

    def apply(
        self, image: np.ndarray, mask: np.ndarray, seed: int, epoch: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image as float32 in [0, 1] and its mask, as training sees them in this epoch.

        Args:
            image: H×W uint8 or uint16.
            mask: H×W uint8.
            index: of the image in its list.
        """
        key = (seed, epoch, index)
        if self.crop:
            image, mask = self._cut(image, mask, key)
        image = to_float(image)
        if self.photometric:
            image = change_light(image, *key)
        if self.augment:
            # Two sides of different lengths may not change places: the batch has one shape.
            square = image.shape[0] == image.shape[1]
            turned = orientation(*key) & (7 if square else 3)
            image, mask = turn(image, turned), turn(mask, turned)
        return image, mask

    def _cut(self, image, mask, key):
        side = self.crop
        if self.scale != 1:
            side = max(1, round(side / log_uniform(_generator(key, _SCALE), self.scale)))
        place = None
        if self.target_crops:
            place = target_corner(mask, side, self.target_crops, *key)
        place = place or corner(*key, image.shape, side)
        size = (self.crop, self.crop)
        return (resize_image(crop_at(image, side, place), size),
                resize_mask(crop_at(mask, side, place), size))


NONE = Augmentation()


def _generator(key: tuple[int, int, int], kind: tuple[int, ...] = ()) -> np.random.Generator:
    return np.random.default_rng([*key, *kind])


def log_uniform(generator: np.random.Generator, factor: float) -> float:
    """A number from 1/factor to factor, evenly in its logarithm."""
    return float(factor ** generator.uniform(-1, 1))


def corner(
    seed: int, epoch: int, index: int, shape: tuple[int, int], crop: int
) -> tuple[int, int]:
    """Row and column where the crop of image `index` begins in an epoch, all as likely."""
    room = [max(0, side - crop) + 1 for side in shape]
    row, column = _generator((seed, epoch, index), _CORNER).integers(room)
    return int(row), int(column)


def target_corner(
    mask: np.ndarray, crop: int, share: float, seed: int, epoch: int, index: int
) -> tuple[int, int] | None:
    """Row and column where a crop begins that contains a target of the mask.

    The target is drawn among the targets of the mask, its place in the crop among all places
    where the target is whole.

    Args:
        share: of the epochs in which the crop is placed so.

    Returns:
        None in the other epochs, and where the mask has no target.
    """
    generator = _generator((seed, epoch, index), _TARGET)
    if generator.random() >= share or not mask.any():
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
    """crop×crop pixels of an H×W image; what it lacks in a side is its mirror image."""
    row, column = corner
    part = image[row : row + crop, column : column + crop]
    lacking = [(0, crop - side) for side in part.shape]
    return np.pad(part, lacking, "symmetric") if any(side for _, side in lacking) else part


def change_light(image: np.ndarray, seed: int, epoch: int, index: int) -> np.ndarray:
    """The image with another gamma, contrast and brightness, and noise, as another camera's.

    Args:
        image: H×W float32 in [0, 1]; so is the result.
    """
    generator = _generator((seed, epoch, index), _LIGHT)
    changed = image ** log_uniform(generator, LARGEST_GAMMA)
    mean = changed.mean()
    changed = mean + log_uniform(generator, LARGEST_CONTRAST) * (changed - mean)
    changed += generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT)
    changed += generator.uniform(0, LARGEST_NOISE) * generator.standard_normal(image.shape)
    return np.clip(changed, 0, 1).astype(np.float32)


def orientation(seed: int, epoch: int, index: int) -> int:
    """Which of the eight orientations of a square image `index` has in an epoch, all as likely."""
    return int(_generator((seed, epoch, index)).integers(8))


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """An H×W image flipped up-down, left-right and transposed, as bits 0, 1 and 2 say."""
    image = image[::-1] if orientation & 1 else image
    image = image[:, ::-1] if orientation & 2 else image
    return image.T if orientation & 4 else image
