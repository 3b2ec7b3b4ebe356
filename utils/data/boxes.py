"""The masks of a dataset as boxes, for annotation tools and box detectors."""

from __future__ import annotations

from typing import Any

from scipy import ndimage

from evaluation.pd_fa import find_regions
from utils.data.datasets import Split
from utils.data.layouts import find_layout

CATEGORY = {"id": 1, "name": "target"}  # the one in all that is written in COCO's form


def coco_boxes(split: Split) -> dict[str, Any]:
    """The targets of a split in COCO's form: images, annotations, categories.

    A target is an 8-connected region of the mask. `bbox` is [x, y, width, height] in pixels from
    the outer corner of the top left pixel, `area` the number of the region's pixels. Images without
    a target are listed too.
    """
    layout = find_layout(split.folder, split.split)
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
