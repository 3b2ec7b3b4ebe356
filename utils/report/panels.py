"""Draws images beside their masks and predictions, with small targets enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from evaluation import THRESHOLD
from evaluation.pd_fa import Regions, centroid_distances, find_regions, match_optimally
from utils.data.images import stretch
from utils.datasets import ImageList
from utils.paths import Paths
from utils.predict.overlays import Ring, paint, place_inset
from utils.predict.prediction_files import read_prediction, read_predictions
from utils.report.drawing import new_figure
from utils.report.scores import ModelScores, describe_image, worst_first

HIT, MISS, TARGET = "#35c46a", "#ff4d4d", "#ffd23f"
LEGEND = (("target", TARGET, "-"), ("detected", HIT, "-"), ("false alarm", MISS, "-"),
          ("missed", MISS, "--"))
SHARP, BOLD = 768, 2  # pixels of a painted panel's longer side, boldness of its rings


class Examples(NamedTuple):
    """Images with the predictions of several networks, an entry per image.

    Attributes:
        names: labels; "" for none.
        images: H×W, any range.
        masks: H×W, non-zero on targets.
        predictions: model name → H×W maps of probabilities.
    """

    names: Sequence[str]
    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]
    predictions: Mapping[str, Sequence[np.ndarray]]


def read_examples(
    split: ImageList, folders: Mapping[str, Path], rows: Sequence[int]
) -> Examples:
    """Images of a split, by index, with the predictions of each model in its folder.

    Raises:
        UserError: by `read_predictions`.
    """
    names, images, masks = ([values[row] for row in rows]
                            for values in (split.names, split.images, split.masks))
    return Examples(names, images, masks, {
        model: read_predictions(split, folder, rows) for model, folder in folders.items()})


def some_rows(split: ImageList, count: int = 4) -> list[int]:
    """Indices of some images with a target, evenly chosen from the list; the first if none has."""
    rows = [row for row, mask in enumerate(split.masks) if mask.any()] or [0]
    return rows[:: max(len(rows) // count, 1)][:count]


def save_worst(
    output_dir: str | Path, model_name: str, split: ImageList, model: ModelScores, count: int
) -> list[Path]:
    """Draws each of the worst images into its own file, and removes those of an earlier call.

    Returns:
        The pictures, the worst first: 01_NAME.png, 02_...
    """
    folder = Paths(output_dir).worst(split.dataset, model_name)
    for old in folder.glob("[0-9]*_*.png"):
        old.unlink()
    paths = []
    for place, row in enumerate(worst_first(model.evaluator.images)[:count], 1):
        name, counts = split.names[row], model.evaluator.images[row]
        paths.append(folder / f"{place:0{len(str(count))}}_{name.replace('/', '_')}.png")
        shown = Examples([""], [split.images[row]], [split.masks[row]],
                         {model_name: [read_prediction(model.predictions.files[name])]})
        detection_figure([paths[-1]], shown, model.evaluator.threshold,
                         describe_image(name, counts), size=2.4, zoom_on_errors=True)
    return paths


def detection_figure(
    paths: Sequence[Path], examples: Examples, threshold: float = THRESHOLD, title: str = "",
    size: float = 1.75, zoom_on_errors: bool = False,
) -> None:
    """Draws one row per image: the image, its mask, one column per network; an inset enlarges.

    Rings: yellow around a target; green around a region (prediction > threshold) that detects a
    target in the strict sense of `evaluation`, red around any other region; dashed red around a
    target that is not detected.

    Args:
        paths: the files to write; the suffix chooses the format.
        threshold: a pixel is detected above it.
        title: above the figure.
        size: width of a panel in inches.
        zoom_on_errors: enlarges the object with the most wrong pixels; otherwise, and if nothing
            is wrong, the largest target.
    """
    columns = ["image", "ground truth", *examples.predictions]
    # A row is as high as its panels: images of all shapes may meet in one figure.
    heights = [size * min(image.shape[0] / image.shape[1], 2) for image in examples.images]
    head, foot = 0.5 if title else 0.25, 0.35  # title and legend
    width, height = size * len(columns) + 0.25, sum(heights) + head + foot
    with new_figure(paths, (width, height), {}) as figure:
        grid = figure.subplots(len(heights), len(columns), squeeze=False,
                               gridspec_kw={"height_ratios": heights})
        figure.subplots_adjust(left=0.2 / width, right=0.995, wspace=0.04, hspace=0.04,
                               top=1 - head / height, bottom=foot / height)
        for axes, column in zip(grid[0], columns):
            axes.set_title(column, fontsize=8, pad=4)
        for axes, name in zip(grid[:, 0], examples.names):
            axes.annotate(name, (-0.03, 0.5), xycoords="axes fraction", fontsize=7, rotation=90,
                          ha="right", va="center")
        for row, image, mask, *maps in zip(grid, examples.images, examples.masks,
                                           *examples.predictions.values()):
            target = mask > 0
            detected = [panel > threshold for panel in maps]
            circled = region_rings(find_regions(target), TARGET)
            rings = [circled, circled, *(_outcome(target, each) for each in detected)]
            wrong = np.any([each != target for each in (target, *detected)], 0)
            focus = _focus(np.any([target, *detected], 0),
                           wrong if zoom_on_errors and wrong.any() else target)
            scale = max(ceil(SHARP / max(image.shape)), 1)
            inset = place_inset(image.shape, scale, focus, sum(rings, []), BOLD)
            for axes, panel, found in zip(row, [stretch(image), target, *maps], rings):
                axes.imshow(paint(panel, scale, found, inset, BOLD))
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
        from matplotlib.lines import Line2D

        figure.legend(handles=[Line2D([], [], ls=style, color=color, label=label)
                               for label, color, style in LEGEND],
                      loc="lower center", ncol=4, fontsize=8, frameon=False)
        figure.suptitle(title, fontsize=9, y=1 - 0.08 / height, va="top")


def region_rings(regions: Regions, color: str, dashed: bool = False) -> list[Ring]:
    """A ring around each region."""
    boxes = ndimage.find_objects(regions.labels)
    return [Ring(row, column, np.hypot(*(side.stop - side.start for side in box)), color, dashed)
            for (row, column), box in zip(regions.centroids, boxes)]


def _outcome(target: np.ndarray, detected: np.ndarray) -> list[Ring]:
    """Rings around hits, false alarms and missed targets."""
    targets, regions = find_regions(target), find_regions(detected)
    pairs = match_optimally(centroid_distances(targets, regions))
    found = region_rings(regions, MISS)
    missed = dict(enumerate(region_rings(targets, MISS, dashed=True)))
    for index, region in pairs:
        found[region] = found[region]._replace(color=HIT)
        del missed[index]
    return [*found, *missed.values()]


def _focus(objects: np.ndarray, weights: np.ndarray) -> Ring:
    """The region of `objects` with the most pixels of `weights`; the middle if there is none."""
    regions = find_regions(objects)
    if not len(regions.areas):
        return Ring(objects.shape[0] / 2, objects.shape[1] / 2, 0, "")
    inside = np.bincount(regions.labels[weights], minlength=len(regions.areas) + 1)[1:]
    return region_rings(regions, "")[np.argmax(inside)]
