"""How the public datasets lay out their files: folders, names of masks, places of lists.

A layout is a row of these tables and no code; `prepare_dataset.py` brings each into the first.
"""

from __future__ import annotations

import codecs
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
# What follows the image's name in the name of its mask.
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
# Each list a folder of its own, with images and masks in it (SIRST-Aug as published), or in both.
SPLIT_FOLDERS = {"train": ("trainval", "train"), "test": ("test", "val")}


DEPTH = 4  # folders below that of the images which may hold images


class Layout(NamedTuple):
    """Where one list of a dataset has its files."""

    images: Path
    masks: Path
    list: Path | None  # None: all images of the folder
    image_suffix: str = ""  # what follows the list's name in an image's name
    mask_suffix: str | None = None  # what follows that name in a mask's; None: any of `SUFFIXES`

    def names(self) -> list[str]:
        """The names on the list, as often as it names them.

        Raises:
            UserError: there are none; or as `read_names`.
        """
        images = self.image_files()
        if self.list:
            return read_names(self.list, images, self.images.name, self.image_suffix)
        if not images:
            raise UserError(f"{self.images}: no image in this folder ({KINDS}); add the "
                            "images of the list")
        return sorted(images)

    def image_files(self) -> dict[str, Path]:
        """Name → file of the images, as `index_files`; masks are left out."""
        files = index_files(self.images)
        if self.mask_suffix and self.images == self.masks:
            files = {name: file for name, file in files.items()
                     if not name.endswith(self.mask_suffix)}
        return {name[: len(name) - len(self.image_suffix)]: file for name, file in files.items()
                if name.endswith(self.image_suffix)}

    def mask_files(self, names: Sequence[str]) -> dict[str, Path]:
        """Name → file of the masks of these images, as far as they are there."""
        files = index_files(self.masks)
        suffixes = SUFFIXES if self.mask_suffix is None else (self.mask_suffix,)
        found = {name: [files[name + suffix] for suffix in suffixes if name + suffix in files]
                 for name in names}
        return {name: masks[0] for name, masks in found.items() if masks}


def image_folders(folder: Path) -> list[tuple[Path, Path]]:
    """The existing folders of images by `FOLDERS`, each with the folder of its masks."""
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


# What people put around names, and what nobody sees.
_QUOTES = "\"'`\u201c\u201d\u2018\u2019 \t"
_BRACKETS = _QUOTES + "[](){}"
_COMMAS = ",;\uff0c\uff1b\u3001"  # also Chinese commas
_UNSEEN = dict.fromkeys(map(ord, "\x1a\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
_COMMENT = re.compile(r"(^|\s)(#|%|//).*")
_HEADINGS = ("image", "images", "img", "name", "names", "file", "filename", "file_name", "id")


def read_names(
    path: Path, images: Collection[str], folder: str = "images", suffix: str = ""
) -> list[str]:
    """The images that a list names, as people write lists.

    A line is the name of an image, with or without its extension and the folders before it, or a
    path that ends with it; or several names between commas. Quotation marks, comments (#, %, //)
    and a first line of headings are passed over, and so are columns beside the name: its mask, a
    label of -1, 0 or 1, the number of the line. A line that is no more than a name counts whether
    there is such an image or not.

    Args:
        images: the names that there are.
        folder: the name of their folder.
        suffix: what files are called beyond these names.

    Raises:
        UserError: it cannot be read, is empty, or a line has no meaning or several.
    """
    text, certain = _read_text(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)
             if line.strip()]
    bare = Counter(name.rsplit("/", 1)[-1] for name in images)
    known = {name: name for name in images}
    for name in images:  # without its folders, where no other image has this name
        last = name.rsplit("/", 1)[-1]
        if bare[last] == 1:
            known.setdefault(last, name)
    names: list[str] = []
    for number, line in lines:
        found = _read_line(line, number, known, suffix, alone=len(lines) == 1)
        if isinstance(found, str):
            shown = line if line.isprintable() and len(line) < 80 else ascii(line)[1:-1][:60]
            raise UserError(f'{path}: line {number} "{shown}" {found}; write a name of {folder}/ '
                            "on each line")
        names += found
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
        try:
            text = data.decode(encoding).translate(_UNSEEN)
        except UnicodeDecodeError:
            continue
        return unicodedata.normalize("NFC", text), encoding != "gb18030"
    raise UserError(f"{path}: cannot be read (neither UTF-8 nor GBK); save it as UTF-8 text")


def _read_line(
    line: str, number: int, images: Mapping[str, str], suffix: str, alone: bool
) -> list[str] | str:
    """The names on a line of a list, or what is odd about it.

    Args:
        images: what a name may be called → the name.
        alone: whether the list has no other line.
    """
    text = _COMMENT.sub("", line).strip(_QUOTES + _COMMAS)
    for whole in (line, _plain(line), text, _plain(text)):  # whatever signs are in it
        if whole in images:
            return [images[whole]]
    if not text.strip(_BRACKETS):
        return []
    for separator in (rf"\s*[{_COMMAS}\t]\s*", rf"[{_COMMAS}\s]+"):
        columns = [column.strip(_QUOTES) for column in re.split(separator, text)]
        columns = [column for column in columns if column.strip(_BRACKETS)]
        if len(columns) == 1 and " " in text:
            continue
        named = [_image_of(column, images, suffix)
                 or _image_of(column.strip(_BRACKETS), images, suffix) for column in columns]
        found = list(dict.fromkeys(name for name in named if name))
        others = [column for column, name in zip(columns, named) if not name]
        if len(found) == 1 and all(_beside(other, found[0], number) for other in others):
            return found
        if len(found) > 1:
            # Two may be an image and its mask under another image's name.
            commas = set(_COMMAS) & set(text)
            if not others and commas and (alone or len(found) > 2):
                return [name for name in named if name]
            return f"names {len(found)} images{' and more' if others else ''}"
    name = _image_of(text, images, suffix)  # a path with blanks in its folders
    if name:
        return [name]
    if number == 1 and columns[0].lower() in _HEADINGS:
        return []
    if ".." in re.split(r"[/\\]", text):
        return "leads out of the folder"
    if len(text) > 255 or not text.isprintable():
        return "is no name; save the list as text"
    odd = re.search(r"[\s,;\"'`<>|:*?]", text)
    if odd:
        return f"names no image, and has {'a blank' if odd[0].isspace() else odd[0]} in it"
    return [_plain(text)]


def _image_of(text: str, images: Mapping[str, str], suffix: str) -> str | None:
    """The image that a text names: the longest end of the path that is the name of one."""
    if text in images:
        return images[text]
    parts = _plain(text).split("/")
    if ".." in parts:
        return None
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    ends += [end[: -len(suffix)] for end in ends if suffix and end.endswith(suffix)]
    # The folder of a name may tell it from another: only a name without one is enough by itself.
    return next((images[end] for end in ends if images.get(end) == end or end in images
                 and len(parts) == 1), None)


def _plain(text: str) -> str:
    """A path with slashes, and without those at its beginning, and without an extension."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    name = "/".join(parts)
    return name[: -len(_extension(name))] if _extension(name) else name


def _beside(column: str, name: str, number: int) -> bool:
    """Whether a column of a list says nothing more than the name of the image beside it."""
    if column in ("-1", "0", "1", "+1", *map(str, range(number - 2, number + 1))):
        return True
    mask, image = (text.rsplit("/", 1)[-1] for text in (_plain(column), name))
    return mask.startswith(image) and not mask[len(image) :][:1].isalnum()


def _extension(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix.lower() in EXTENSIONS else ""


def index_files(folder: Path, extensions: Sequence[str] = EXTENSIONS) -> dict[str, Path]:
    """Name → file of a folder and of those in it; among several files the first of `extensions`.

    A name is the path below the folder without the extension, its letters in Unicode's form NFC:
    a list and a folder may come from systems that write an umlaut in different ways.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; a dataset holds images/, masks/, train.txt and test.txt"
        )
    files = [file for file in _walk(folder) if file.suffix.lower() in extensions]
    files.sort(key=lambda file: (-extensions.index(file.suffix.lower()), file.name))
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return {unicodedata.normalize("NFC", name): file for name, file in zip(names, files)}


def _walk(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The files of a folder and of those in it, hidden ones aside."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield Path(entry.path)
            elif depth:
                yield from _walk(Path(entry.path), depth - 1)
