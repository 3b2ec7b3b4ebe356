"""How the public datasets lay out their files: folders, names of masks, places of lists.

A layout is a row of these tables and no code; `prepare_dataset.py` brings each into the first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from utils.data.images import EXTENSIONS
from utils.errors import UserError, listed

# Images and masks.
FOLDERS = (
    ("images", "masks"),  # NUDT-SIRST, NUAA-SIRST, SIRST-Aug, SIRST3
    ("IRSTD1k_Img", "IRSTD1k_Label"),  # IRSTD-1K as published
)
# What the name of a mask has beyond that of its image.
SUFFIXES = (
    "",
    "_pixels0",  # NUAA-SIRST
    "_mask",  # SIRST-Aug
)
# Where a list lies; of several the first counts. {name} is the folder's, * any, if only one fits.
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
    ),
    "test": (
        "test.txt",
        "50_50/test.txt",
        "img_idx/test_{name}.txt",
        "img_idx/test_*.txt",
        "img_idx/test.txt",
        "idx_427/test.txt",
    ),
}
# Each list a folder of its own, with images and masks in it: SIRST-Aug as published.
SPLIT_FOLDERS = {"train": ("trainval", "train"), "test": ("test",)}


class Layout(NamedTuple):
    """Where one list of a dataset has its files."""

    images: Path
    masks: Path
    list: Path | None  # None: all images of the folder

    def names(self) -> list[str]:
        """The stems that the list names, as often as it names them.

        Raises:
            UserError: there are none; or as `read_names`.
        """
        if self.list:
            return read_names(self.list)
        names = sorted(index_files(self.images))
        if not names:
            kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
            raise UserError(f"{self.images}: no image in this folder ({kinds}); add those of the "
                            "list")
        return names


def image_folders(folder: Path) -> list[tuple[Path, Path]]:
    """The folders of images that are there by `FOLDERS`, each with that of its masks."""
    rows = [(folder / images, folder / masks) for images, masks in FOLDERS]
    return [row for row in rows if row[0].is_dir()]


def split_folder(folder: Path, split: str) -> Path | None:
    """The folder that holds the files of this list alone, by `SPLIT_FOLDERS`, or None."""
    places = [folder / place for place in SPLIT_FOLDERS.get(split, ())]
    return next((place for place in places if image_folders(place)), None)


def find_layout(folder: Path, split: str) -> Layout:
    """Where a list of a dataset has its files.

    Raises:
        UserError: no folder of images, or two of them; no such list, or two of them.
    """
    rows = image_folders(folder)
    own = None if rows else split_folder(folder, split)
    rows = rows or (own and image_folders(own)) or []
    if not rows:
        raise UserError(
            f"{folder / 'images'}: no such folder; a dataset holds images/, masks/, train.txt and "
            "test.txt, or python prepare_dataset.py brings it into this shape"
        )
    if len(rows) > 1:
        raise UserError(f"{rows[0][0]}: and {rows[1][0].name}/ beside it; remove one of them")
    path = find_list(own or folder, split)
    if path is None and own is None:
        raise UserError(
            f"{folder / split}.txt: no {split} list (nor {', '.join(_places(folder, split)[1:])}); "
            f"write one, a name of {rows[0][0].name}/ on each line"
        )
    return Layout(*rows[0], path)


def _places(folder: Path, split: str) -> list[str]:
    places = LISTS.get(split, (f"{split}.txt",))
    return [place.format(name=folder.name) for place in places]


def find_list(folder: Path, split: str) -> Path | None:
    """The file of a list by `LISTS`, or None.

    Raises:
        UserError: several lists fit one place.
    """
    for place in _places(folder, split):
        # Not glob where nothing is to be matched: the folder's name may hold its signs.
        found = sorted(folder.glob(place)) if "*" in place else [folder / place]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            others = listed([path.name for path in found[1:]])
            raise UserError(
                f"{found[0]}: which is the {split} list, this or {others}? copy it to "
                f"{folder / split}.txt"
            )
        if found:
            return found[0]
    return None


def read_names(path: Path) -> list[str]:
    """The stems named by a list, whatever blanks, line ends and extensions it has.

    Raises:
        UserError: it cannot be read, is empty, or holds what is no name.
    """
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
    return names


def _extension(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix.lower() in EXTENSIONS else ""


def index_files(folder: Path) -> dict[str, Path]:
    """stem → file of a folder; among several files of one stem the first of EXTENSIONS.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; a dataset holds images/, masks/, train.txt and test.txt"
        )
    files = [file for file in folder.iterdir()
             if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    files.sort(key=lambda file: (-EXTENSIONS.index(file.suffix.lower()), file.name))
    return {file.stem: file for file in files}


def mask_of(name: str, masks: dict[str, Path]) -> Path | None:
    """The mask of an image among an `index_files` of masks, by `SUFFIXES`."""
    return next((masks[name + suffix] for suffix in SUFFIXES if name + suffix in masks), None)
