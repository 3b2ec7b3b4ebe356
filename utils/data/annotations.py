"""Reads boxes and points that people have drawn: COCO .json, YOLO .txt and VOC .xml."""

from __future__ import annotations

import contextlib
import json
import math
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.data.layouts import index_files
from utils.data.lists import image_of, spellings
from utils.errors import UserError, listed


class Box(NamedTuple):
    """The edges of a box in pixels: 0 is the left or upper edge of the first pixel.

    A point is a box without width and height.
    """

    left: float
    top: float
    right: float
    bottom: float


class Drawn(NamedTuple):
    """What was drawn on one image.

    Attributes:
        file: the annotations, for messages.
        boxes: boxes and points.
        size: (width, height) of the image by the annotations; None if they do not say.
        fractions: True if the boxes are fractions of width and height, not pixels.
    """

    file: Path
    boxes: list[Box]
    size: tuple[int, int] | None = None
    fractions: bool = False


def read_annotations(
    path: Path, images: Collection[str], suffix: str = "", lists: Collection[Path | None] = ()
) -> tuple[str, dict[str, Drawn]]:
    """Reads a COCO .json, or all annotations in a folder and its subfolders.

    YOLO and VOC have a file per image, with the image's name. A name without folders stands for the
    image in any folder, if only one image has this name. Every class counts as target.

    Args:
        images: the names of the existing images.
        suffix: what may follow these names in the annotations.
        lists: text files that are no annotations; neither are classes.txt and README files.

    Returns:
        The name of the format, and image's name → what was drawn on the image.

    Raises:
        UserError: a file cannot be understood, has a box without area or names a missing image; or
            there are no annotations, or annotations of two formats.
    """
    if path.is_dir():
        files = {kind: {name: file for name, file in index_files(path, (kind,)).items()
                        if not _NO_ANNOTATIONS.match(file.name) and file not in lists}
                 for kind in READERS}
    elif path.suffix.lower() == ".json":
        files = {".json": {"": path}}
    else:
        raise UserError(f"{path}: one file must be COCO .json; export COCO, or name the folder of "
                        "YOLO .txt or VOC .xml")
    kinds = [kind for kind, found in files.items() if found]
    if len(kinds) != 1:
        problem = f"both {kinds[0]} and {kinds[1]}" if kinds else "no annotations"
        raise UserError(f"{path}: {problem} in this folder; keep COCO .json, YOLO .txt or VOC .xml")
    format_name, read = READERS[kinds[0]]
    known = spellings(images)
    drawn: dict[str, Drawn] = {}
    for name, file in files[kinds[0]].items():
        try:
            for title, one in read(file, name):
                image = image_of(unicodedata.normalize("NFC", title), known, suffix)
                if image is None:
                    raise ValueError(_missing(" ".join(title.split()), images))
                before = drawn[image].boxes if image in drawn else []
                drawn[image] = one._replace(boxes=before + one.boxes)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
    return format_name, drawn


def _missing(title: str, images: Collection[str]) -> str:
    """Says why a title names no image."""
    own = Path(title.replace("\\", "/")).name
    same = [name for name in images if name.rsplit("/", 1)[-1] in (own, own.rpartition(".")[0])]
    if len(same) > 1 and own == title:
        return f"{title} may be {listed(sorted(same), 2)}; write the folder before the name"
    return f"there is no image {title}; add it, or remove its annotation"


# The readers yield an image's name or path, and what was drawn on the image. Their ValueErrors lack
# the file's name.


def _read_coco(file: Path, _: str) -> Iterator[tuple[str, Drawn]]:
    with _part("file", "COCO's images and annotations, in UTF-8"):
        content = json.loads(file.read_bytes())
        entries, annotations = list(content["images"]), list(content["annotations"])
    images = {}
    for number, entry in enumerate(entries, 1):
        with _part(f"image {number}", "an id of its own and file_name"):
            key = str(entry["id"])  # some tools write "1" for 1
            if key in images:
                raise ValueError(key)
            images[key] = str(entry["file_name"]), Drawn(
                file, [], _size(entry.get("width"), entry.get("height")))
    for number, entry in enumerate(annotations, 1):
        with _part(f"annotation {number}", "image_id of an image, and bbox [x, y, width, height] "
                                           "with an area, or keypoints [x, y, 2]"):
            boxes = images[str(entry["image_id"])][1].boxes
            x, y, width, height = _numbers(entry.get("bbox") or (0, 0, 0, 0))
            if width or height or not entry.get("keypoints"):
                boxes.append(_box(x, y, x + width, y + height))
            else:
                triples = zip(*[iter(_numbers(entry["keypoints"]))] * 3)
                boxes.extend(Box(x, y, x, y) for x, y, visible in triples if visible)
    yield from images.values()


def _read_yolo(file: Path, name: str) -> Iterator[tuple[str, Drawn]]:
    boxes = []
    with _part("file", "UTF-8 text"):
        lines = file.read_text("utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        with _part(f"line {number}", "class, x and y of the centre, width and height, as fractions "
                                     "of the image, with an area, or the x and y of 4 or more "
                                     "corners"):
            if not line.strip():
                continue
            _, *values = _numbers(line.split())
            if len(values) >= 8 and len(values) % 2 == 0:  # 6 may be a box with two more columns
                xs, ys = values[::2], values[1::2]
                boxes.append(_box(min(xs), min(ys), max(xs), max(ys)))
                continue
            x, y, width, height, *confidence = values
            if len(confidence) > 1:
                raise ValueError(line)
            boxes.append(_box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    yield name, Drawn(file, boxes, fractions=True)


def _read_voc(file: Path, name: str) -> Iterator[tuple[str, Drawn]]:
    boxes = []
    with _part("file", "VOC's XML in UTF-8, without DOCTYPE"):
        parser = ET.XMLParser(target=_PlainTree())
        parser.feed(file.read_bytes())
        root = parser.close()
        if root.tag != "annotation":
            raise ValueError(root.tag)
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
    for number, entry in enumerate(root.iter("object"), 1):
        with _part(f"object {number}", "bndbox with xmin, ymin, xmax and ymax, and an area"):
            left, top, right, bottom = _numbers(
                entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append(_box(left - 1, top - 1, right, bottom))  # from 1, the last one inside
    yield name, Drawn(file, boxes, size)


READERS = {".json": ("COCO", _read_coco), ".txt": ("YOLO", _read_yolo), ".xml": ("VOC", _read_voc)}
_NO_ANNOTATIONS = re.compile(r"classes\.txt$|readme\b", re.IGNORECASE)


class _PlainTree(ET.TreeBuilder):
    """Refuses document types: their entities may unfold to gigabytes."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("DOCTYPE")


@contextlib.contextmanager
def _part(part: str, needed: str) -> Iterator[None]:
    """Turns what goes wrong in a part of a file into a ValueError that says what it needs."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError,
            RecursionError) as error:
        raise ValueError(f"{part} is not understood; it needs {needed}") from error


def _size(width: object, height: object) -> tuple[int, int] | None:
    """A size from numbers or their text; None if a side is missing or 0."""
    size = tuple(int(float(side or 0)) for side in (width, height))
    return size if all(size) else None


def _numbers(values: Iterable) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers


def _box(*edges: float) -> Box:
    box = Box(*edges)
    if box.right <= box.left or box.bottom <= box.top:
        raise ValueError("no area")
    return box
