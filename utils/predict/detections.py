"""Finds detections in a probability map, and writes lists of detections."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from evaluation import THRESHOLD
from evaluation.pd_fa import find_regions
from utils.data.layouts import find_layout
from utils.datasets import ImageList
from utils.files import atomic_path

CATEGORY = {"id": 1, "name": "target"}  # the one category of files in COCO's form
COORDINATES = (
    "pixels, x to the right and y down; the centre of the top left pixel is (0, 0). x, y: the "
    "centroid of the region, each pixel counted alike. x_min, y_min, x_max, y_max: its outermost "
    "pixels, themselves inside. area: its pixels. peak: its highest probability."
)


class Detection(NamedTuple):
    """An 8-connected region of pixels above the threshold; `COORDINATES` explains the fields."""

    x: float
    y: float
    x_min: int
    y_min: int
    x_max: int
    y_max: int
    area: int
    peak: float


def find_detections(probability: np.ndarray, threshold: float = THRESHOLD) -> list[Detection]:
    """The regions of an H×W map of probabilities above `threshold`, by peak, then by area."""
    regions = find_regions(probability > threshold)
    rows, columns = np.nonzero(regions.labels)
    peaks = np.zeros(len(regions.areas))
    np.maximum.at(peaks, regions.labels[rows, columns] - 1, probability[rows, columns])
    boxes = ndimage.find_objects(regions.labels)
    found = [
        Detection(round(float(x), 3), round(float(y), 3), columns.start, rows.start,
                  columns.stop - 1, rows.stop - 1, int(area), round(float(peak), 6))
        for (y, x), (rows, columns), area, peak
        in zip(regions.centroids, boxes, regions.areas, peaks)
    ]
    return sorted(found, key=lambda each: (-each.peak, -each.area))


class Frame(NamedTuple):
    """An image and its detections."""

    file: str
    width: int
    height: int
    detections: list[Detection]


def save_detections(
    csv_path: Path,
    json_path: Path,
    frames: Sequence[Frame],
    problems: Mapping[str, str],
    run: Mapping[str, Any],
) -> None:
    """Writes a .csv with a row per detection, and a .json with an entry per image.

    Args:
        frames: images in the order of the files, those without detections as well.
        problems: file name → reason, for files that could not be used.
        run: further entries of the .json (model, threshold ...).
    """
    with atomic_path(csv_path) as temporary, open(
        temporary, "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(["file", *Detection._fields])
        writer.writerows((frame.file, *found) for frame in frames for found in frame.detections)
    _save_json(json_path, {**run, "coordinates": COORDINATES}, {
        "images": (
            {**frame._asdict(), "detections": [found._asdict() for found in frame.detections]}
            for frame in frames),
        "unreadable": ({"file": file, "reason": reason} for file, reason in problems.items()),
    })


def save_coco(path: Path, frames: Sequence[Frame], description: str) -> None:
    """Writes detections as COCO annotations with a `score`, the peak, and a `centroid`, [x, y].

    A `bbox` is [x, y, width, height], measured from the outer edge of its pixels.

    Args:
        frames: images in the order of the file; their ids are 1, 2 ...
        description: one line for `info`.
    """
    found = ((image_id, each) for image_id, frame in enumerate(frames, 1)
             for each in frame.detections)
    _save_json(path, {"info": {"description": description}}, {
        "images": ({"id": image_id, "file_name": frame.file, "width": frame.width,
                    "height": frame.height} for image_id, frame in enumerate(frames, 1)),
        "annotations": (_annotation(number, *each) for number, each in enumerate(found, 1)),
        "categories": [CATEGORY],
    })


def _save_json(path: Path, head: Mapping[str, Any], lists: Mapping[str, Iterable]) -> None:
    """Writes an object of `head` and lists; entry by entry, to need no memory for all of them.

    Bytes of file names that are not UTF-8 are written as escapes, which JSON understands.
    """
    with atomic_path(path) as temporary, open(
        temporary, "w", encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(_as_json(head)[:-1])
        for name, entries in lists.items():
            file.write(f',\n"{name}": [')
            for index, entry in enumerate(entries):
                file.write(("," if index else "") + "\n " + _as_json(entry))
            file.write("]")
        file.write("}\n")


def _annotation(number: int, image_id: int, found: Detection) -> dict[str, Any]:
    width, height = found.x_max - found.x_min + 1, found.y_max - found.y_min + 1
    return {"id": number, "image_id": image_id, "category_id": CATEGORY["id"],
            "bbox": [found.x_min, found.y_min, width, height], "area": found.area, "iscrowd": 0,
            "score": found.peak, "centroid": [found.x, found.y]}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def mask_boxes(split: ImageList) -> dict[str, Any]:
    """The targets of a list in COCO's form: images, annotations, categories.

    A target is an 8-connected region of the mask. `bbox` is [x, y, width, height] in pixels from
    the outer corner of the top left pixel, `area` the number of the region's pixels. Images without
    a target are listed too.
    """
    layout = find_layout(split.folder, split.name)
    files = layout.image_files()
    images, annotations = [], []
    for name, mask in zip(split.names, split.masks):
        height, width = mask.shape
        images.append({"id": len(images) + 1, "width": width, "height": height,
                       "file_name": files[name].relative_to(layout.images).as_posix()})
        regions = find_regions(mask > 0)
        for (rows, columns), area in zip(ndimage.find_objects(regions.labels), regions.areas):
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            annotations.append({
                "id": len(annotations) + 1, "image_id": len(images), "category_id": CATEGORY["id"],
                "bbox": box, "area": int(area), "iscrowd": 0,
            })
    return {"images": images, "annotations": annotations, "categories": [CATEGORY]}
