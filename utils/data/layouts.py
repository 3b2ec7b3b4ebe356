"""Layouts of the public datasets: folders, names of masks, places of lists.

A new layout needs rows in these tables, no code. `prepare_dataset.py` converts all layouts into
NUDT-SIRST's.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.data.decoding import EXTENSIONS, KINDS
from utils.data.lists import read_names
from utils.errors import UserError, listed

# Images and masks.
FOLDERS = (
    ("images", "masks"),  # NUDT-SIRST, NUAA-SIRST, SIRST-Aug, SIRST3
    ("IRSTD1k_Img", "IRSTD1k_Label"),  # IRSTD-1K as published
)
# What follows the image's name in its mask's name; the first that has a file counts.
MASK_SUFFIXES = (
    "",
    "_pixels0",  # NUAA-SIRST
    "_mask",  # SIRST-Aug
)
# Where a list lies; the first that is there counts. {name} is the folder's name, and * any name if
# only one list fits.
LISTS = {
    "train": (
        "train.txt",
        "50_50/train.txt",  # DNANet
        "img_idx/train_{name}.txt",  # official L2SKNet, BasicIRSTD
        "img_idx/train_*.txt",
        "img_idx/train.txt",  # SIRST-Aug, SIRST3
        "trainval.txt",  # IRSTD-1K as published
        "img_idx/trainval.txt",
        "idx_427/trainval.txt",  # NUAA-SIRST as published
        "ImageSets/Segmentation/train.txt",  # Pascal VOC
        "ImageSets/Segmentation/trainval.txt",
        "ImageSets/Main/train.txt",  # Pascal VOC with boxes
        "ImageSets/Main/trainval.txt",
    ),
    "test": (
        "test.txt",
        "50_50/test.txt",
        "img_idx/test_{name}.txt",
        "img_idx/test_*.txt",
        "img_idx/test.txt",
        "idx_427/test.txt",
        "ImageSets/Segmentation/test.txt",
        "ImageSets/Segmentation/val.txt",
        "ImageSets/Main/test.txt",
        "ImageSets/Main/val.txt",
    ),
}
# One folder per list: train/images/ and train/masks/ as in SIRST-Aug, or images/train/ and
# masks/train/.
SPLIT_FOLDERS = {"train": ("trainval", "train"), "test": ("test", "val", "valid")}


class Layout(NamedTuple):
    """Where one list of a dataset has its files.

    Attributes:
        images: the folder of the images.
        masks: the folder of the masks.
        list: the list's file; None: all images of the folder.
        image_suffix: ending of image files after a name of the list, before ".png".
        mask_suffix: ending of mask files in the same way; None: any of `MASK_SUFFIXES`.
    """

    images: Path
    masks: Path
    list: Path | None
    image_suffix: str = ""
    mask_suffix: str | None = None

    def names(self) -> list[str]:
        """The names on the list, with repetitions; raises a UserError if there are none."""
        images = self.image_files()
        if self.list:
            return read_names(self.list, images, self.images.name, self.image_suffix)
        if not images:
            raise UserError(f"{self.images}: no image in this folder ({KINDS}); add the images of "
                            "the list")
        return sorted(images)

    def image_files(self) -> dict[str, Path]:
        """Name → file of the images, without the masks in their folder."""
        own, masks = self.image_suffix, self.mask_suffix
        mixed = masks and self.images == self.masks
        return {name[: len(name) - len(own)]: file
                for name, file in index_files(self.images).items()
                if name.endswith(own) and not (mixed and name.endswith(masks))}

    def mask_files(self, names: Sequence[str]) -> dict[str, Path]:
        """Name → file of the masks of these images; missing masks are left out."""
        files = index_files(self.masks)
        suffixes = MASK_SUFFIXES if self.mask_suffix is None else (self.mask_suffix,)
        return {name: files[name + suffix] for name in names for suffix in reversed(suffixes)
                if name + suffix in files}


def layout_of(folder: Path, split: str, masks_required: bool = False) -> Layout | None:
    """Where a list of a dataset has its files; None if the folder has no images for it.

    Args:
        masks_required: True ignores a folder of images beside which no folder of masks lies.

    Raises:
        UserError: two folders of images, or two such lists.
    """
    for place in (folder, *(folder / own for own in SPLIT_FOLDERS.get(split, ()))):
        rows = [(place / images, place / masks) for images, masks in FOLDERS
                if (place / images).is_dir()]
        if masks_required and place == folder:
            rows = [row for row in rows if row[1].is_dir()]
        if len(rows) > 1:
            raise UserError(f"{rows[0][0]}: lies beside {rows[1][0].name}/; remove one of them")
        if rows:
            return Layout(*rows[0], find_list(place, split))
    return None


def find_layout(folder: Path, split: str) -> Layout:
    """Where a list of a dataset has its files; raises a UserError if there is no such list."""
    layout = layout_of(folder, split)
    if layout is None:
        raise UserError(f"{folder / 'images'}: no such folder; put images/, masks/, train.txt and "
                        "test.txt there, or run python prepare_dataset.py, which makes them")
    if layout.list is None and layout.images.parent == folder:
        others = ", ".join(_places(folder, split)[1:])
        raise UserError(f"{folder / split}.txt: no {split} list (nor {others}); write one, a name "
                        f"of {layout.images.name}/ on each line")
    return layout


def _places(folder: Path, split: str) -> list[str]:
    places = LISTS.get(split, (f"{split}.txt",))
    return [place.format(name=folder.name) for place in places]


def find_list(folder: Path, split: str) -> Path | None:
    """The file of a list by `LISTS`, or None; raises a UserError if several fit one place."""
    for place in _places(folder, split):
        # No glob without a *: the folder's name may hold its signs.
        found = sorted(folder.glob(place)) if "*" in place else [folder / place]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            others = listed([path.name for path in found[1:]])
            raise UserError(f"{found[0]}: which is the {split} list, this or {others}? copy it to "
                            f"{folder / split}.txt")
        if found:
            return found[0]
    return None


def index_files(folder: Path, extensions: Sequence[str] = EXTENSIONS) -> dict[str, Path]:
    """Name → file of a folder and its subfolders; of several files the first by `extensions`.

    A name is the path below the folder without the extension, in Unicode's form NFC: a list and a
    folder may come from systems that store an umlaut in different ways. Raises a UserError if there
    is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a dataset holds images/, masks/, train.txt and "
                        "test.txt")
    files = [file for file in walk(folder) if file.suffix.lower() in extensions]
    files.sort(key=lambda file: (-extensions.index(file.suffix.lower()), file.name))
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return {unicodedata.normalize("NFC", name): file for name, file in zip(names, files)}


def hidden(name: str) -> bool:
    """True for files and folders that systems leave beside the user's own."""
    return name.startswith((".", "__MACOSX"))


def walk(
    folder: Path, left_out: Callable[[Path], bool] = lambda folder: False,
    above: frozenset[Path] = frozenset(),
) -> Iterator[Path]:
    """Yields the files of a folder and its subfolders, without hidden files.

    A link to a folder above is not followed, which would go round.

    Args:
        left_out: True for subfolders to leave out.
        above: the folders from which this function has come to `folder`.
    """
    seen = above | {folder.resolve(), *folder.resolve().parents}
    with os.scandir(folder) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            path = Path(entry.path)
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if not is_folder:
                yield path
            elif path.resolve() not in seen and not left_out(path):
                yield from walk(path, left_out, seen)
