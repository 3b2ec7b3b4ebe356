"""A dataset of images and masks, read into memory once, checked as a whole, served in batches.

The layout is NUDT-SIRST's:

    <dataset_dir>/<dataset_name>/images/NAME.png
    <dataset_dir>/<dataset_name>/masks/NAME.png
    <dataset_dir>/<dataset_name>/train.txt, test.txt     one name a line
      or  .../50_50/train.txt, ...                       as DNANet's copy has it
      or  .../img_idx/train_<dataset_name>.txt, ...      as other toolkits have it
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from utils.data.images import EXTENSIONS, read_gray, read_mask, resize_image, resize_mask, to_float
from utils.errors import UserError, listed


@dataclass
class Split:
    """The images of one list ("train" or "test") of a dataset.

    Attributes:
        name: the dataset's name.
        split: the list's name.
        folder: the dataset's folder.
        names: file stems, in the order of the list.
        images: H×W uint8 or uint16 each, native sizes.
        masks: H×W uint8 of 0 and 1 each; empty when read without masks.
    """

    name: str
    split: str
    folder: Path
    names: list[str]
    images: list[np.ndarray]
    masks: list[np.ndarray]
    _resized: dict = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> str:
        """One line: images, sizes (width x height), depth, targets, images without a target."""
        shapes = sorted({image.shape for image in self.images}, key=lambda s: (s[0] * s[1], s))
        sizes = [f"{width}x{height}" for height, width in (shapes[0], shapes[-1])]
        size = sizes[0] if len(shapes) == 1 else f"{len(shapes)} sizes from {' to '.join(sizes)}"
        depths = sorted({8 * image.itemsize for image in self.images})
        line = f"{self.name} {self.split}: {_count(len(self), 'image')}, {size}, "
        line += f"{' and '.join(map(str, depths))} bit"
        if self.masks:
            counts = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in self.masks]
            pixels = sum(int(mask.sum()) for mask in self.masks)
            line += (
                f"; {_count(sum(counts), 'target')} on {_count(pixels, 'pixel')}, "
                f"{_count(counts.count(0), 'image')} without a target"
            )
        return line

    def resized(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images and masks at size×size, computed once and kept with their own bit depth."""
        if size not in self._resized:
            self._resized[size] = (
                [resize_image(image, (size, size)) for image in self.images],
                [resize_mask(mask, (size, size)) for mask in self.masks],
            )
        return self._resized[size]


def load_splits(
    dataset_dir: str | Path,
    dataset_name: str,
    splits: Sequence[str] = ("train", "test"),
    num_workers: int = 4,
    masks_required: bool = True,
) -> list[Split]:
    """Reads several lists of a dataset; what is wrong in any of them is reported together.

    Args:
        dataset_dir: the folder that holds the dataset's folder.
        dataset_name: the name of the dataset's folder.
        splits: names of lists, "train" and "test" as a rule.
        num_workers: decoding threads (0 counts as 1).
        masks_required: False reads no masks at all.

    Raises:
        UserError: dataset, folder or list missing; an empty list; or one line for each bad file.
    """
    folder = _find_dataset(Path(dataset_dir), dataset_name)
    lists = [_read_list(folder, split) for split in splits]
    kinds = ("images", "masks") if masks_required else ("images",)
    files = {kind: _index(folder / kind) for kind in kinds}

    def read(name: str) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
        return _read_pair(name, folder, files)

    loaded, problems = [], {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for split, names in zip(splits, lists):
            bar = tqdm(
                pool.map(read, names),
                total=len(names),
                desc=f"reading {folder.name} {split}",
                unit="image",
                leave=False,
                disable=None,  # not in a log file
            )
            images, masks, found = zip(*bar)
            # Keyed by the line: a file may stand in two lists.
            problems.update(dict.fromkeys(line for lines in found for line in lines))
            masks = list(masks) if masks_required else []
            loaded.append(Split(folder.name, split, folder, names, list(images), masks))
    if problems:
        raise UserError(
            f"{folder}: {_count(len(problems), 'file')} cannot be used; "
            "mend each, or take its name off the list:\n"
            + "\n".join(f"  {line}" for line in problems)
        )
    return loaded


def load_split(
    dataset_dir: str | Path,
    dataset_name: str,
    split: str,
    num_workers: int = 4,
    masks_required: bool = True,
) -> Split:
    """Reads one list of a dataset; arguments and errors as for `load_splits`."""
    return load_splits(dataset_dir, dataset_name, (split,), num_workers, masks_required)[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _find_dataset(dataset_dir: Path, dataset_name: str) -> Path:
    folder = dataset_dir / dataset_name
    if folder.is_dir():
        return folder
    if (dataset_dir / "images").is_dir():
        hint = f"--dataset_dir names the folder above it: try --dataset_dir {dataset_dir.parent}"
        hint += f" --dataset_name {dataset_dir.resolve().name}"
    else:
        hint = (
            "put or link the dataset there (images/, masks/, train.txt, test.txt), "
            "or name its parent folder with --dataset_dir"
        )
    raise UserError(f"{folder}: no dataset '{dataset_name}' here; {hint}")


def _read_list(folder: Path, split: str) -> list[str]:
    """The stems named by a list, whatever blanks, line ends and extensions it has."""
    places = [folder / name for name in (
        f"{split}.txt", f"50_50/{split}.txt", f"img_idx/{split}_{folder.name}.txt")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"{places[0]}: no {split} list (nor 50_50/{split}.txt, img_idx/{places[2].name}); "
            "write one, a name of images/ on each line"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as UTF-8 text") from error
    names = [line.strip() for line in lines if line.strip()]
    names = [name[: -len(_extension(name))] if _extension(name) else name for name in names]
    if not names:
        raise UserError(f"{path}: the list is empty; write a name of images/ on each line")
    strange = [name for name in names if len(name) > 255 or re.search(r"[\x00-\x1f\x7f]", name)]
    if strange:
        raise UserError(f"{path}: {ascii(strange[0])[:60]} is no name; save the list as text, a "
                        "name of images/ on each line")
    # Refused, not dropped: scores would count the image twice, or differ from others' counts.
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: named more than once: {listed(repeated)}; name each image once"
        )
    return names


def _extension(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix.lower() in EXTENSIONS else ""


def _index(folder: Path) -> dict[str, Path]:
    """stem → file of a folder; among several files of one stem the first of EXTENSIONS."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; a dataset holds images/, masks/, train.txt and test.txt"
        )
    files = [file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS]
    files.sort(key=lambda file: (-EXTENSIONS.index(file.suffix.lower()), file.name))
    return {file.stem: file for file in files}


def _read_pair(
    name: str, folder: Path, files: dict[str, dict[str, Path]]
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """The image and the mask of a name, and a line for each that cannot be used."""
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for kind, read in (("images", read_gray), ("masks", read_mask)):
        if kind not in files:
            continue
        path = files[kind].get(name)
        if path is None:
            kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
            problems.append(f"{folder / kind}/{name}: no such {kind[:-1]} ({kinds}); add the file")
            continue
        try:
            arrays[kind] = read(path)
        except UserError as error:
            problems.append(str(error))
    image, mask = arrays.get("images"), arrays.get("masks")
    if image is not None and mask is not None and image.shape != mask.shape:
        sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image)]
        problems.append(
            f"{files['masks'][name]}: the mask is {sizes[0]} but the image is {sizes[1]} "
            "(width x height); give both the same size"
        )
    return image, mask, problems


def num_train_batches(split: Split, batch_size: int) -> int:
    """How many batches an epoch has; a last batch of one image does not count.

    Raises:
        UserError: batch_size or the number of images is below two.
    """
    if batch_size < 2:
        raise UserError(
            f"--batch_size {batch_size}: must be at least 2; "
            "batch norm after global pooling has nothing to normalise over one image"
        )
    if len(split) < 2:
        raise UserError(f"{split.folder}: the {split.split} list has one image; name two or more")
    full, rest = divmod(len(split), batch_size)
    return full + (rest > 1)


def train_batches(
    split: Split, batch_size: int, size: int, seed: int, epoch: int, start: int = 0,
    augment: bool = False,
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """The batches of one epoch, in an order that depends on seed and epoch alone.

    Jittor's own Dataset shuffles alike for every seed; and an order that needs no generator's
    state lets a resumed run go on in the middle of an epoch.

    Args:
        size: images and masks are resized to size×size.
        start: how many batches to skip.
        augment: whether to flip and transpose, as `orientation` says.

    Yields:
        names, x and y: N×1×size×size float32, x in [0, 1], y of 0 and 1.

    Raises:
        UserError: batch_size or the number of images is below two.
    """
    batches = num_train_batches(split, batch_size)
    images, masks = split.resized(size)
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    for batch in range(start, batches):
        chosen = order[batch * batch_size : (batch + 1) * batch_size]
        turns = [orientation(seed, epoch, i) if augment else 0 for i in chosen]
        x = np.stack([to_float(turn(images[i], t)) for i, t in zip(chosen, turns)])[:, None]
        y = np.stack([turn(masks[i], t) for i, t in zip(chosen, turns)])[:, None]
        y = y.astype(np.float32)
        yield [split.names[i] for i in chosen], x, y


def orientation(seed: int, epoch: int, index: int) -> int:
    """Which of the eight orientations of a square image `index` has in an epoch, all as likely."""
    return int(np.random.default_rng([seed, epoch, index]).integers(8))


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """An H×W image flipped up-down, left-right and transposed, as bits 0, 1 and 2 say."""
    image = image[::-1] if orientation & 1 else image
    image = image[:, ::-1] if orientation & 2 else image
    return image.T if orientation & 4 else image


def test_batches(split: Split, batch_size: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Every image once at its native size, images of one size together, smallest first.

    Yields:
        indices into the split, and x: N×1×H×W float32 in [0, 1].
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(split.images):
        by_shape.setdefault(image.shape, []).append(index)
    for shape in sorted(by_shape):
        indices = by_shape[shape]
        for first in range(0, len(indices), batch_size):
            chosen = indices[first : first + batch_size]
            yield chosen, np.stack([to_float(split.images[i]) for i in chosen])[:, None]
