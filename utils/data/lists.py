"""Reads the lists of datasets, in the forms that people write them."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from utils.data.decoding import EXTENSIONS
from utils.errors import UserError
from utils.files import is_utf16

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
    """Reads the names of images from a list.

    A line is the name of an image, with or without its extension and the folders before it, or a
    path that ends with it; or several names between commas. Ignored are quotation marks, comments
    (#, %, //), a first line of headings, and columns beside the name: its mask, a label of -1, 0 or
    1, the number of the line. A line that is a plain name counts even if there is no such image.

    Args:
        images: the names of the existing images.
        folder: the name of their folder.
        suffix: what follows these names in file names.

    Raises:
        UserError: the list cannot be read or is empty, or a line is not clear.
    """
    text, certain = _read_text(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)
             if line.strip()]
    known = spellings(images)
    blanks = any(" " in name for name in images)
    names: list[str] = []
    for number, line in lines:
        try:
            names += _read_line(line, number, known, suffix, len(lines) == 1, blanks)
        except ValueError as odd:
            shown = line if line.isprintable() and len(line) < 80 else ascii(line)[1:-1][:60]
            raise UserError(f'{path}: line {number} "{shown}" {odd}; write a name of {folder}/ on '
                            "each line") from None
    if not names:
        raise UserError(f"{path}: the list is empty; write a name of {folder}/ on each line")
    strange = {name for name in names if not name.isascii()}
    if not certain and strange and not strange & set(images):
        raise UserError(f"{path}: cannot be read (neither UTF-8 nor GBK); save it as UTF-8 text")
    return names


def spellings(images: Collection[str]) -> dict[str, str]:
    """Spelling → image's name: also without its folders, if no other image has this name."""
    last = [name.rsplit("/", 1)[-1] for name in images]
    number_of = Counter(last)
    known = {end: name for end, name in zip(last, images) if number_of[end] == 1}
    known.update((name, name) for name in images)
    read = {name: name.translate(_UNSEEN).strip() for name in images}  # as a line of a list is read
    number_of = Counter(read.values())
    return {**{line: name for name, line in read.items() if number_of[line] == 1}, **known}


def _read_text(path: Path) -> tuple[str, bool]:
    """The text of a list, and whether its encoding is certain."""
    data = path.read_bytes()
    for encoding in ("utf-16",) if is_utf16(data) else ("utf-8-sig", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding).translate(_UNSEEN)
            return unicodedata.normalize("NFC", text), encoding != "gb18030"
    raise UserError(f"{path}: cannot be read (neither UTF-8 nor GBK); save it as UTF-8 text")


def _read_line(
    line: str, number: int, known: Mapping[str, str], suffix: str, alone: bool, blanks: bool
) -> list[str]:
    """The names on a line of a list; a ValueError says what is odd about the line.

    Args:
        known: spelling of a name → the name.
        alone: True if the list has no other line.
        blanks: True if the names of images have blanks in them.
    """
    text = _COMMENT.sub("", line).strip(_QUOTES + _COMMAS)
    for whole in (line, _plain(line), text, _plain(text)):  # a name may have any signs in it
        if whole in known:
            return [known[whole]]
    if not text.strip(_BRACKETS):
        return []
    found: list[str] = []
    for separator in (rf"\s*[{_COMMAS}\t]\s*", rf"[{_COMMAS}\s]+"):
        columns = [column.strip(_QUOTES) for column in re.split(separator, text)]
        columns = [column for column in columns if column.strip(_BRACKETS)]
        if len(columns) == 1 and " " in text:
            continue
        named = [image_of(column, known, suffix)
                 or image_of(column.strip(_BRACKETS), known, suffix) for column in columns]
        found = list(dict.fromkeys(name for name in named if name))
        others = [column for column, name in zip(columns, named) if not name]
        if len(found) == 1 and all(_adds_nothing(other, found[0], number) for other in others):
            return found
        if len(found) > 1:
            # Two names may be an image and a mask that is called like another image.
            commas = set(_COMMAS) & set(text)
            if not others and commas and (alone or len(found) > 2):
                return [name for name in named if name]
            raise ValueError(f"names {len(found)} images{' and more' if others else ''}")
    name = image_of(text, known, suffix)  # a path with blanks in its folders
    if name:
        return [name]
    if number == 1 and columns[0].lower() in _HEADINGS and not (
            blanks and re.search(r" \(?\d+\)?$", text)):  # image (1)
        return []
    if ".." in re.split(r"[/\\]", text):
        raise ValueError("leads out of the folder")
    if len(text) > 255 or not text.isprintable():
        raise ValueError("is no name; save the list as text")
    blanks = blanks and not found  # else a line that names an image, and more
    odd = re.search(r"[\s,;\"'`<>|:*?]", text.replace(" ", "") if blanks else text)
    if odd:
        raise ValueError(f"names no image, and has {odd[0].strip() or 'a blank'} in it")
    return [_plain(text)]


def image_of(text: str, known: Mapping[str, str], suffix: str) -> str | None:
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
