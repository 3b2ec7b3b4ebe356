"""Reads a dataset of images and masks into memory, checks it as a whole, and serves batches.

The layout is NUDT-SIRST's, or another of `utils.data.layouts`:

    <dataset_dir>/<dataset_name>/images/NAME.png
    <dataset_dir>/<dataset_name>/masks/NAME.png
    <dataset_dir>/<dataset_name>/train.txt, test.txt     one name per line
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from utils.data.augment import CONNECTED, augmented
from utils.data.images import FULL, binary, has_grey, resize_image, resize_mask, to_float
from utils.data.layouts import FOLDERS, find_layout
from utils.data.pairs import describe_sizes, read_pairs
from utils.errors import UserError, listed
from utils.recipe import Recipe

BATCH_PIXELS = 8 * 640 * 512  # most pixels of a batch to predict, unless one image has more


@dataclass
class ImageList:
    """The images of one list ("train" or "test") of a dataset.

    Attributes:
        dataset: the dataset's name.
        name: the list's name.
        folder: the dataset's folder.
        names: names of the images in the order of the list: stems, with folders below images/.
        images: H×W uint8 or uint16 each, native sizes.
        masks: H×W uint8 of 0 and 1 each; empty if read without masks.
        levels: index → H×W uint8 of 0 to 255, for masks with grey edges only.
        skipped: name → one line per unusable file, for images left out of the list.
    """

    dataset: str
    name: str
    folder: Path
    names: list[str]
    images: list[np.ndarray]
    masks: list[np.ndarray]
    levels: dict[int, np.ndarray] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    _resized: dict = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> str:
        """One line: numbers of images and targets, sizes (width x height), depth, bad pairs."""
        depths = sorted({8 * image.itemsize for image in self.images})
        parts = [f"{self.dataset} {self.name}: {_count(len(self), 'image')}, "
                 f"{describe_sizes(image.shape for image in self.images)}, "
                 f"{' and '.join(map(str, depths))} bit"]
        if self.masks:
            counts = [ndimage.label(mask, CONNECTED)[1] for mask in self.masks]
            pixels = sum(int(mask.sum()) for mask in self.masks)
            parts.append(f"{_count(sum(counts), 'target')} on {_count(pixels, 'pixel')}, "
                         f"{_count(counts.count(0), 'image')} without a target")
        if self.levels:
            parts.append(f"{_count(len(self.levels), 'mask')} with grey values, target above half")
        return "; ".join([*parts, *self.left_out()])

    def left_out(self) -> list[str]:
        """One line that names the bad pairs; none if there are none."""
        if not self.skipped:
            return []
        return [f"{_count(len(self.skipped), 'pair')} left out: {listed([*self.skipped], 20)}"]

    def resized(self, size: int, soft: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images and masks at size×size and their own bit depth, computed once.

        Args:
            size: 0 keeps native sizes.
            soft: True gives masks as grey levels of 0 to 255, False as 0 and 1.
        """
        if (size, soft) not in self._resized:
            masks = self.masks
            if soft:
                masks = [self.levels.get(i, mask * np.uint8(FULL)) for i, mask in enumerate(masks)]
            images = self.images
            if size:
                images = [resize_image(image, (size, size)) for image in images]
                masks = [resize_mask(mask, (size, size)) for mask in masks]
            self._resized[size, soft] = images, masks
        return self._resized[size, soft]


def load_splits(
    dataset_dir: str | Path, dataset_name: str, splits: Sequence[str] = ("train", "test"),
    num_workers: int = 4, masks_required: bool = True, skip_bad: bool | None = False,
) -> list[ImageList]:
    """Reads several lists of a dataset, and reports all bad files in one error.

    Args:
        dataset_dir: the folder that holds the dataset's folder.
        dataset_name: the name of the dataset's folder.
        splits: names of lists, usually "train" and "test".
        num_workers: decoding threads (0 counts as 1).
        masks_required: False reads no masks.
        skip_bad: True leaves out images and masks that cannot be used, see `ImageList.skipped`.

    Raises:
        UserError: dataset, folder or list missing; an empty list; or one line per bad file.
    """
    folder = find_dataset(Path(dataset_dir), dataset_name)
    layouts = [find_layout(folder, split) for split in splits]
    lists = [layout.names() for layout in layouts]
    for layout, names in zip(layouts, lists):
        # Refused, not dropped: other programs would count these images twice.
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f"{layout.list}: named more than once: {listed(repeated)}; name each "
                            "image once")
    loaded = []
    for split, layout, names in zip(splits, layouts, lists):
        pairs = list(read_pairs(names, layout, f"reading {folder.name} {split}", num_workers,
                                masks_required))
        good = [pair for pair in pairs if not pair.problems]
        levels = [pair.levels for pair in good if masks_required]
        loaded.append(ImageList(
            folder.name, split, folder, [pair.name for pair in good],
            [pair.image for pair in good], [binary(mask) for mask in levels],
            {i: mask for i, mask in enumerate(levels) if has_grey(mask)},
            {pair.name: pair.problems for pair in pairs if pair.problems},
        ))
    # Each line once: a file may stand in two lists.
    problems = list(dict.fromkeys(
        line for split in loaded for lines in split.skipped.values() for line in lines))
    if problems and not skip_bad:
        raise UserError("\n  ".join((
            f"{folder}: {_count(len(problems), 'file')} cannot be used; mend each, take its name "
            "off the list, or leave them out with --skip_bad:", *problems)))
    for split, layout in zip(loaded, layouts):
        if not len(split):
            raise UserError(f"{layout.list or layout.images}: --skip_bad leaves none of its "
                            f"images; the first: {problems[0]}")
    return loaded


def load_split(
    dataset_dir: str | Path, dataset_name: str, split: str, num_workers: int = 4,
    masks_required: bool = True, skip_bad: bool | None = False,
) -> ImageList:
    """Reads one list of a dataset; arguments and errors as for `load_splits`."""
    return load_splits(
        dataset_dir, dataset_name, (split,), num_workers, masks_required, skip_bad)[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def find_dataset(dataset_dir: Path, dataset_name: str) -> Path:
    """The folder of a dataset; raises a UserError if it is missing."""
    folder = dataset_dir / dataset_name
    if folder.is_dir():
        return folder
    hint = ("put or link the dataset there (images/, masks/, train.txt, test.txt), bring it there "
            "with prepare_dataset.py, or name its parent folder with --dataset_dir")
    if any((dataset_dir / images).is_dir() for images, _ in FOLDERS):
        hint = (f"--dataset_dir names the folder above it: try --dataset_dir {dataset_dir.parent} "
                f"--dataset_name {dataset_dir.resolve().name}")
    elif dataset_dir.is_dir():
        names = sorted(each.name for each in dataset_dir.iterdir()
                       if each.is_dir() and not each.name.startswith("."))
        hint += f"; {dataset_dir} holds {listed(names, 10)}" if names else ""
    raise UserError(f"{folder}: no dataset '{dataset_name}' here; {hint}")


def num_train_batches(split: ImageList, recipe: Recipe) -> int:
    """Number of batches in an epoch; a last batch of one image does not count.

    Raises:
        UserError: batch size or number of images is below two, or images have several sizes and
            are neither resized nor cropped.
    """
    if recipe.batch_size < 2:
        raise UserError(f"--batch_size {recipe.batch_size}: must be at least 2, because batch norm "
                        "after global pooling needs several values; give 2 or more")
    if len(split) < 2:
        raise UserError(f"{split.folder}: the {split.name} list has one image; add more images")
    shapes = {image.shape for image in split.images}
    if not recipe.image_size and not recipe.crop and len(shapes) > 1:
        raise UserError(f"{split.folder}: --image_size 0 takes images as they are, but these have "
                        f"{describe_sizes(shapes)}; cut them with --crop PIXELS "
                        "(train_device0.py, run_train.py), or resize with --image_size")
    full, rest = divmod(len(split), recipe.batch_size)
    return full + (rest > 1)


def train_batches(
    split: ImageList, recipe: Recipe, epoch: int, start: int = 0,
    part: Callable[[int], slice] = slice,
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Yields the batches of one epoch, in an order that depends on seed and epoch alone.

    So a resumed run can go on in the middle of an epoch. Jittor's own Dataset shuffles alike for
    every seed.

    Args:
        start: number of batches to skip.
        part: number of images in a batch → slice of the images to yield; all by default.

    Yields:
        the names of all images of the batch, and x and y: N×1×H×W float32, x in [0, 1], y of 0 and
        1, or in [0, 1] with `recipe.soft_masks`.

    Raises:
        UserError: by `num_train_batches`.
    """
    batches = num_train_batches(split, recipe)
    images, masks = split.resized(recipe.image_size, recipe.soft_masks)
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(split))
    for batch in range(start, batches):
        chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
        own = chosen[part(len(chosen))]
        pairs = [augmented(images[i], masks[i], recipe, (recipe.seed, epoch, i)) for i in own]
        x, y = (np.stack(arrays)[:, None].astype(np.float32) for arrays in zip(*pairs))
        yield [split.names[i] for i in chosen], x, y / np.float32(FULL) if recipe.soft_masks else y


def test_batches(
    split: ImageList, batch_size: int, subset: slice = slice(None)
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields every image once at its native size, images of one size together, smallest first.

    Args:
        batch_size: most images in a batch; fewer if they would have more than `BATCH_PIXELS`.
        subset: slice of the batches to yield; all by default.

    Yields:
        indices into the split, and x: N×1×H×W float32 in [0, 1].
    """
    for chosen in _test_indices(split, batch_size)[subset]:
        yield chosen, np.stack([to_float(split.images[i]) for i in chosen])[:, None]


def num_test_batches(split: ImageList, batch_size: int) -> int:
    """Number of batches that `test_batches` makes in all."""
    return len(_test_indices(split, batch_size))


def _test_indices(split: ImageList, batch_size: int) -> list[list[int]]:
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(split.images):
        by_shape.setdefault(image.shape, []).append(index)
    batches = []
    for shape in sorted(by_shape):
        size = max(1, min(batch_size, BATCH_PIXELS // (shape[0] * shape[1])))
        indices = by_shape[shape]
        batches += [indices[first : first + size] for first in range(0, len(indices), size)]
    return batches
