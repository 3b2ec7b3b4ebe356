"""Layouts of the public datasets: folders, names of masks, places of lists.

A layout is rows of these tables, not code; `prepare_dataset.py` brings each into the first.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.data.decoding import EXTENSIONS, KINDS
from utils.errors import UserError, listed

# Images and masks.
FOLDERS = (
    ("images", "masks"),  # NUDT-SIRST, NUAA-SIRST, SIRST-Aug, SIRST3
    ("IRSTD1k_Img", "IRSTD1k_Label"),  # IRSTD-1K as published
)
# What follows the image's name in the name of its mask; of several masks the first counts.
SUFFIXES = (
    "",
    "_pixels0",  # NUAA-SIRST
    "_mask",  # SIRST-Aug
)
# Where a list lies; of several the first counts. {name} is the folder's name, * is any name if only
# one list fits.
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
    ),
}
# Folders with images and masks of one list only (SIRST-Aug as published), or such folders in both.
SPLIT_FOLDERS = {"train": ("trainval", "train"), "test": ("test", "val")}

DEPTH = 4  # levels of folders below the images' folder that may hold images


class Layout(NamedTuple):
    """Where one list of a dataset has its files.

    Attributes:
        images: the folder of the images.
        masks: the folder of the masks.
        list: the list's file; None: all images of the folder.
        image_suffix: what follows a name on the list in the image's file name.
        mask_suffix: what follows that name in the mask's file name; None: any of `SUFFIXES`.
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
        suffixes = SUFFIXES if self.mask_suffix is None else (self.mask_suffix,)
        return {name: files[name + suffix] for name in names for suffix in reversed(suffixes)
                if name + suffix in files}


def layout_of(folder: Path, split: str, masks_required: bool = False) -> Layout | None:
    """Where a list of a dataset has its files; None if the folder has no images for it.

    Args:
        masks_required: True ignores folders of images for both lists without a folder of masks.

    Raises:
        UserError: two folders of images, or two such lists.
    """
    for place in (folder, *(folder / own for own in SPLIT_FOLDERS.get(split, ()))):
        rows = [(place / images, place / masks) for images, masks in FOLDERS
                if (place / images).is_dir()]
        if masks_required and place == folder:
            rows = [row for row in rows if row[1].is_dir()]
        if len(rows) > 1:
            raise UserError(f"{rows[0][0]}: and {rows[1][0].name}/ beside it; remove one of them")
        if rows:
            return Layout(*rows[0], find_list(place, split))
    return None


def find_layout(folder: Path, split: str) -> Layout:
    """Where a list of a dataset has its files; raises a UserError if there is no such list."""
    layout = layout_of(folder, split)
    if layout is None:
        raise UserError(f"{folder / 'images'}: no such folder; a dataset holds images/, masks/, "
                        "train.txt and test.txt, or python prepare_dataset.py brings it into this "
                        "shape")
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


# Characters around names in lists, and invisible characters.
_QUOTES = "\"'`\u201c\u201d\u2018\u2019 \t"
_BRACKETS = _QUOTES + "[](){}"
_COMMAS = ",;\uff0c\uff1b\u3001"  # also Chinese commas
_UNSEEN = dict.fromkeys(map(ord, "\x1a\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
_COMMENT = re.compile(r"(^|\s)(#|%|//).*")
_HEADINGS = ("image", "images", "img", "name", "names", "file", "filename", "file_name", "id")


def read_names(
    path: Path, images: Collection[str], folder: str = "images", suffix: str = ""
) -> list[str]:
    """Reads the names of images from a list, in the forms that people write lists.

    A line is the name of an image, with or without its extension and the folders before it, or a
    path that ends with it; or several names between commas. Ignored are quotation marks, comments
    (#, %, //), a first line of headings, and columns beside the name: its mask, a label of -1, 0 or
    1, the number of the line. A line that is a plain name counts even if there is no such image.

    Args:
        images: the names of the existing images.
        folder: the name of their folder.
        suffix: what file names have beyond these names.

    Raises:
        UserError: the list cannot be read, is empty, or a line has no meaning or several.
    """
    text, certain = _read_text(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)
             if line.strip()]
    last = [name.rsplit("/", 1)[-1] for name in images]
    number_of = Counter(last)
    # Spelling → name: also without its folders, if no other image has this name.
    known = {end: name for end, name in zip(last, images) if number_of[end] == 1}
    known.update((name, name) for name in images)
    names: list[str] = []
    for number, line in lines:
        try:
            names += _read_line(line, number, known, suffix, alone=len(lines) == 1)
        except ValueError as odd:
            shown = line if line.isprintable() and len(line) < 80 else ascii(line)[1:-1][:60]
            raise UserError(f'{path}: line {number} "{shown}" {odd}; write a name of {folder}/ on '
                            "each line") from None
    if not names:
        raise UserError(f"{path}: the list is empty; write a name of {folder}/ on each line")
    if not certain and not set(names) <= set(images):
        raise UserError(f"{path}: cannot be read (neither UTF-8 nor GBK); save it as UTF-8 text")
    return names


def _read_text(path: Path) -> tuple[str, bool]:
    """The text of a list, and whether its encoding is certain."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); check its permissions") from error
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Notepad's "Unicode"
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding).translate(_UNSEEN)
            return unicodedata.normalize("NFC", text), encoding != "gb18030"
    raise UserError(f"{path}: cannot be read (neither UTF-8 nor GBK); save it as UTF-8 text")


def _read_line(
    line: str, number: int, known: Mapping[str, str], suffix: str, alone: bool
) -> list[str]:
    """The names on a line of a list; a ValueError says what is odd about the line.

    Args:
        known: spelling of a name → the name.
        alone: True if the list has no other line.
    """
    text = _COMMENT.sub("", line).strip(_QUOTES + _COMMAS)
    for whole in (line, _plain(line), text, _plain(text)):  # a name may have any signs in it
        if whole in known:
            return [known[whole]]
    if not text.strip(_BRACKETS):
        return []
    for separator in (rf"\s*[{_COMMAS}\t]\s*", rf"[{_COMMAS}\s]+"):
        columns = [column.strip(_QUOTES) for column in re.split(separator, text)]
        columns = [column for column in columns if column.strip(_BRACKETS)]
        if len(columns) == 1 and " " in text:
            continue
        named = [_image_of(column, known, suffix)
                 or _image_of(column.strip(_BRACKETS), known, suffix) for column in columns]
        found = list(dict.fromkeys(name for name in named if name))
        others = [column for column, name in zip(columns, named) if not name]
        if len(found) == 1 and all(_adds_nothing(other, found[0], number) for other in others):
            return found
        if len(found) > 1:
            # Two names may be an image and its mask under another image's name.
            commas = set(_COMMAS) & set(text)
            if not others and commas and (alone or len(found) > 2):
                return [name for name in named if name]
            raise ValueError(f"names {len(found)} images{' and more' if others else ''}")
    name = _image_of(text, known, suffix)  # a path with blanks in its folders
    if name:
        return [name]
    if number == 1 and columns[0].lower() in _HEADINGS:
        return []
    if ".." in re.split(r"[/\\]", text):
        raise ValueError("leads out of the folder")
    if len(text) > 255 or not text.isprintable():
        raise ValueError("is no name; save the list as text")
    odd = re.search(r"[\s,;\"'`<>|:*?]", text)
    if odd:
        raise ValueError(f"names no image, and has {odd[0].strip() or 'a blank'} in it")
    return [_plain(text)]


def _image_of(text: str, known: Mapping[str, str], suffix: str) -> str | None:
    """The image that a text names: the longest end of the path that is an image's name."""
    if text in known:
        return known[text]
    parts = _plain(text).split("/")
    if ".." in parts:
        return None
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    ends += [end[: -len(suffix)] for end in ends if suffix and end.endswith(suffix)]
    # A path's folders must be the name's folders: two images may differ in them alone.
    return next((known[end] for end in ends if known.get(end) == end or end in known
                 and len(parts) == 1), None)


def _plain(text: str) -> str:
    """A path with slashes, without slashes at its ends and without an extension."""
    name = "/".join(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in EXTENSIONS else name


def _adds_nothing(column: str, name: str, number: int) -> bool:
    """True if a column says no more than the image's name beside it: a label, number or mask."""
    if column in ("-1", "0", "1", "+1", *map(str, range(number - 2, number + 1))):
        return True
    mask, image = (text.rsplit("/", 1)[-1] for text in (_plain(column), name))
    return mask.startswith(image) and not mask[len(image) :][:1].isalnum()


def index_files(folder: Path, extensions: Sequence[str] = EXTENSIONS) -> dict[str, Path]:
    """Name → file of a folder and its subfolders; of several files the first by `extensions`.

    A name is the path below the folder without the extension, in Unicode's form NFC: a list and a
    folder may come from systems that store an umlaut in different ways. Raises a UserError if there
    is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a dataset holds images/, masks/, train.txt and "
                        "test.txt")
    files = [file for file in _walk(folder) if file.suffix.lower() in extensions]
    files.sort(key=lambda file: (-extensions.index(file.suffix.lower()), file.name))
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return {unicodedata.normalize("NFC", name): file for name, file in zip(names, files)}


def hidden(name: str) -> bool:
    """True for files and folders that systems leave beside the user's own."""
    return name.startswith((".", "__MACOSX"))


def _walk(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The files of a folder and its subfolders, without hidden ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            if not entry.is_dir():
                yield Path(entry.path)
            elif depth:
                yield from _walk(Path(entry.path), depth - 1)
