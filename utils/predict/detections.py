"""Finds detections in a probability map, and writes lists of detections."""

from __future__ import annotations

import csv
import io
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
from utils.files import write_text

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


class Frame(NamedTuple):
    """An image, or a frame of a clip, and its detections.

    Attributes:
        index: of a clip's frame, from 0; None for images.
        time: of a clip's frame, in seconds; None for images.
    """

    file: str
    width: int
    height: int
    detections: list[Detection]
    index: int | None = None
    time: float | None = None

    def identity(self) -> dict[str, Any]:
        """`file`, and for a frame of a clip `frame` and `time`."""
        if self.index is None:
            return {"file": self.file}
        return {"file": self.file, "frame": self.index, "time": self.time}


def find_detections(probability: np.ndarray, threshold: float = THRESHOLD) -> list[Detection]:
    """The regions of an H×W map of probabilities above `threshold`, by peak, then by area."""
    return sorted(_regions(probability, threshold), key=lambda each: (-each.peak, -each.area))


def _regions(probability: np.ndarray, threshold: float) -> list[Detection]:
    """The regions in label order."""
    regions = find_regions(probability > threshold)
    rows, columns = np.nonzero(regions.labels)
    peaks = np.zeros(len(regions.areas))
    np.maximum.at(peaks, regions.labels[rows, columns] - 1, probability[rows, columns])
    return [
        Detection(round(float(x), 3), round(float(y), 3), columns.start, rows.start,
                  columns.stop - 1, rows.stop - 1, int(area), round(float(peak), 6))
        for (y, x), (rows, columns), area, peak in zip(
            regions.centroids, ndimage.find_objects(regions.labels), regions.areas, peaks)
    ]


def save_detections(
    csv_path: Path, json_path: Path, frames: Sequence[Frame], problems: Mapping[str, str],
    run: Mapping[str, Any],
) -> None:
    """Writes a .csv with a row per detection, and a .json with an entry per image.

    Args:
        frames: in the order of the files, those without detections as well.
        problems: file name → reason, for files that could not be used.
        run: the first entries of the .json: input, model, threshold ...
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([*(frames[0].identity() if frames else ["file"]), *Detection._fields])
    writer.writerows((*frame.identity().values(), *found)
                     for frame in frames for found in frame.detections)
    write_text(csv_path, table.getvalue())
    _save_json(json_path, {
        **run, "coordinates": COORDINATES,
        "images": [
            {**frame.identity(), "width": frame.width, "height": frame.height,
             "detections": [found._asdict() for found in frame.detections]} for frame in frames],
        "unreadable": [{"file": file, "reason": reason} for file, reason in problems.items()],
    })


def input_of(json_path: Path) -> str | None:
    """The `input` that a .json of `save_detections` names first; None if it does not."""
    try:
        with open(json_path, encoding="utf-8") as file:  # it may have 100 MB
            entry = [file.readline(), file.readline()][1]
        return json.loads(f"{{{entry.strip().rstrip(',')}}}")["input"]
    except (OSError, ValueError, KeyError):
        return None


def save_coco(path: Path, frames: Sequence[Frame], description: str) -> None:
    """Writes detections as COCO annotations with a `score`, the peak, and a `centroid`, [x, y].

    Args:
        frames: images in the order of the file; their ids are 1, 2 ...
        description: one line for `info`.
    """
    _save_json(path, {"info": {"description": description}, **_coco(frames, scored=True)})


def mask_boxes(split: ImageList) -> dict[str, Any]:
    """The targets of a list in COCO's form: images, annotations, categories.

    A target is an 8-connected region of the mask, its `area` the number of its pixels. Images
    without a target are listed too.
    """
    layout = find_layout(split.folder, split.name)
    files = layout.image_files()
    return _coco(
        [Frame(files[name].relative_to(layout.images).as_posix(), mask.shape[1], mask.shape[0],
               _regions(mask, 0)) for name, mask in zip(split.names, split.masks)], scored=False)


def _coco(frames: Iterable[Frame], scored: bool) -> dict[str, list]:
    """COCO's images, annotations and categories; `bbox`: [x, y, width, height] of whole pixels."""
    images, annotations = [], []
    for frame in frames:
        name = frame.file if frame.index is None else f"{frame.index:06d}.png"
        images.append({"id": len(images) + 1, "file_name": name, "width": frame.width,
                       "height": frame.height})
        for found in frame.detections:
            size = found.x_max - found.x_min + 1, found.y_max - found.y_min + 1
            annotations.append({
                "id": len(annotations) + 1, "image_id": len(images), "category_id": 1,
                "bbox": [found.x_min, found.y_min, *size], "area": found.area, "iscrowd": 0})
            if scored:
                annotations[-1].update(score=found.peak, centroid=[found.x, found.y])
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "target"}]}


def _save_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
