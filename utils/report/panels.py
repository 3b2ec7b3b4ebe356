"""Figures of detections: the image, its mask and what each network sees, tiny targets enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from scipy import ndimage

from evaluation import THRESHOLD, Evaluator
from evaluation.pd_fa import Regions, centroid_distances, find_regions, match_optimally
from utils.data.images import stretch
from utils.datasets import ImageList
from utils.paths import Paths
from utils.predict.overlays import Ring, paint, place_inset
from utils.predict.prediction_files import predictions_of, read_prediction, read_predictions
from utils.report.drawing import save_figure, settings
from utils.report.scores import describe_image, worst_first

CELLS = 72  # on a side of a surface
HIT, MISS, TARGET = "#35c46a", "#ff4d4d", "#ffd23f"
LEGEND = (("target", TARGET, "-"), ("detected", HIT, "-"), ("false alarm", MISS, "-"),
          ("missed", MISS, "--"))
SHARP, BOLD = 768, 2  # pixels of a painted panel's longer side, boldness of its rings


def save_qualitative(
    output_dir: str | Path,
    split: ImageList,
    folders: Mapping[str, Path],
    threshold: float,
    rows: Sequence[int] | None = None,
    surface: bool = False,
) -> list[Path]:
    """Draws images of a split with their predictions side by side.

    Args:
        folders: model name -> the folder of its predictions.
        threshold: of `detection_figure`.
        rows: indices of the images; by default some with a target.
        surface: draws the images as surfaces in 3-D, too.

    Returns:
        The files, .png and .pdf, the surfaces last.

    Raises:
        UserError: by `read_predictions`.
    """
    rows = some_rows(split) if rows is None else rows
    chosen = (
        *([values[row] for row in rows] for values in (split.names, split.images, split.masks)),
        {model: read_predictions(split, folder, rows) for model, folder in folders.items()},
    )
    flat = Paths(output_dir).qualitative(split.dataset)
    detection_figure(flat, *chosen, threshold=threshold)
    if not surface:
        return [*flat]
    surfaces = Paths(output_dir).qualitative(split.dataset, surface=True)
    surface_figure(surfaces, *chosen)
    return [*flat, *surfaces]


def some_rows(split: ImageList, count: int = 4) -> list[int]:
    """Indices of some images with a target, evenly chosen from the list; the first if none has."""
    rows = [row for row, mask in enumerate(split.masks) if mask.any()] or [0]
    return rows[:: max(len(rows) // count, 1)][:count]


def save_worst(
    output_dir: str | Path,
    model_name: str,
    split: ImageList,
    folder: Path,
    evaluator: Evaluator,
    count: int,
) -> list[Path]:
    """Draws each of the worst images into a file of its own; pictures of an earlier call go.

    Args:
        split: the images that were scored.
        folder: of the predictions.
        evaluator: the scores, in the order of the split.
        count: the number of images.

    Returns:
        The pictures, the worst first: 01_NAME.png, 02_...
    """
    files = predictions_of(split.names, folder)
    worst = Paths(output_dir).worst(split.dataset, model_name)
    for old in worst.glob("[0-9]*_*.png"):
        old.unlink()
    paths = []
    for place, index in enumerate(worst_first(evaluator.images)[:count], 1):
        name, image = split.names[index], evaluator.images[index]
        paths.append(worst / f"{place:0{len(str(count))}}_{name.replace('/', '_')}.png")
        detection_figure(
            [paths[-1]], [""], [split.images[index]], [split.masks[index]],
            {model_name: [read_prediction(files[name])]}, evaluator.threshold,
            title=describe_image(name, image), size=2.4, zoom_on_errors=True)
    return paths


@settings({})
def detection_figure(
    paths: Sequence[Path],
    names: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    threshold: float = THRESHOLD,
    title: str = "",
    size: float = 1.75,
    zoom_on_errors: bool = False,
) -> None:
    """Draws one row per image: the image, its mask, one column per network; an inset enlarges.

    Rings: yellow around a target; green around a region (prediction > threshold) that detects a
    target in the strict sense of `evaluation`, red around any other region; dashed red around a
    target that is not detected.

    Args:
        paths: the files to write; the suffix chooses the format.
        names: one label per image.
        images: H×W, any range.
        masks: H×W, non-zero on targets.
        predictions: model name -> one H×W map of probabilities per image.
        threshold: a pixel is detected above it.
        title: above the figure.
        size: width of a panel in inches.
        zoom_on_errors: enlarges the largest region that a network has wrong; otherwise, and if
            nothing is wrong, the largest target.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = ["image", "ground truth", *predictions]
    head = 0.5 if title else 0.25
    # A row is as high as its panels: images of all shapes may meet in one figure.
    heights = [size * min(image.shape[0] / image.shape[1], 2) for image in images]
    width, height = size * len(columns) + 0.25, sum(heights) + 0.35 + head
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(images), len(columns), squeeze=False,
                           gridspec_kw={"height_ratios": heights})
    for row, (name, image, mask) in enumerate(zip(names, images, masks)):
        maps = [panels[row] for panels in predictions.values()]
        targets = _rings(find_regions(mask > 0), TARGET)
        rings = [targets, targets, *(_outcome(mask, panel > threshold) for panel in maps)]
        wrong = [(panel > threshold) != (mask > 0) for panel in maps if zoom_on_errors]
        scale = max(ceil(SHARP / max(image.shape)), 1)
        focus = _largest(*([np.any(wrong, axis=0)] if wrong else []), mask > 0)
        every = sum(rings, [])
        # Wrong pixels of a larger object are shown with the whole object, or its ring is cut off.
        around = [ring for ring in every if np.hypot(
            ring.row - focus.row, ring.column - focus.column) <= ring.extent / 2]
        focus = max([focus, *around], key=lambda ring: ring.extent)
        inset = place_inset(image.shape, scale, focus, every, BOLD)
        for axes, panel, found in zip(grid[row], [stretch(image), mask > 0, *maps], rings):
            axes.imshow(paint(panel, scale, found, inset, BOLD))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        grid[row][0].set_ylabel(name, fontsize=7)
    for axes, column in zip(grid[0], columns):
        axes.set_title(column, fontsize=8, pad=4)
    figure.legend(handles=[Line2D([], [], ls=style, color=color, label=label)
                           for label, color, style in LEGEND],
                  loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, y=1 - 0.08 / height, va="top")
    figure.subplots_adjust(left=0.2 / width, right=0.995, wspace=0.04, hspace=0.04,
                           top=1 - head / height, bottom=0.32 / height)
    save_figure(figure, paths, 150)


def _rings(regions: Regions, color: str, dashed: bool = False) -> list[Ring]:
    boxes = ndimage.find_objects(regions.labels)
    return [Ring(row, column, np.hypot(*(side.stop - side.start for side in box)), color, dashed)
            for (row, column), box in zip(regions.centroids, boxes)]


def _outcome(mask: np.ndarray, detected: np.ndarray) -> list[Ring]:
    """Rings around hits, false alarms and missed targets."""
    targets, regions = find_regions(mask > 0), find_regions(detected)
    pairs = match_optimally(centroid_distances(targets, regions))
    hit, detecting = (set(indices) for indices in zip(*pairs)) if pairs else (set(), set())
    return [*(ring._replace(color=HIT) if index in detecting else ring
              for index, ring in enumerate(_rings(regions, MISS))),
            *(ring for index, ring in enumerate(_rings(targets, MISS, dashed=True))
              if index not in hit)]


def _largest(*maps: np.ndarray) -> Ring:
    """The largest region of the first map that has one; else the middle."""
    for regions in map(find_regions, maps):
        if len(regions.areas):
            return _rings(regions, "")[np.argmax(regions.areas)]
    return Ring(maps[0].shape[0] / 2, maps[0].shape[1] / 2, 0, "")


@settings({"font.size": 6, "grid.linewidth": 0.3, "axes.linewidth": 0.4})
def surface_figure(
    paths: Sequence[Path],
    names: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Draws the rows and columns of `detection_figure` as surfaces in 3-D; arguments as there.

    The surface takes the highest value of each cell of a coarse grid, and a face the colour of
    its highest corner: sampling pixels would lose a target of two pixels, and a mean would pale it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns, size = ["image", "ground truth", *predictions], 1.9
    figure = Figure(figsize=(size * len(columns) + 0.25, size * len(images) + 0.25))
    grid = figure.subplots(len(images), len(columns), squeeze=False,
                           subplot_kw={"projection": "3d"})
    for row, (name, image, mask) in enumerate(zip(names, images, masks)):
        maps = [panels[row] for panels in predictions.values()]
        for axes, panel in zip(grid[row], [stretch(image), mask > 0, *maps]):
            x, y, z = _coarse(panel)
            peaks = ndimage.maximum_filter(z, (2, 2), origin=-1)
            # Thousands of faces: as vectors a PDF of them is slow to open.
            axes.plot_surface(x, y, z, facecolors=matplotlib.colormaps["viridis"](peaks),
                              rcount=CELLS, ccount=CELLS, shade=False, linewidth=0,
                              antialiased=False, rasterized=True)
            height, width = panel.shape
            axes.set(zlim=(0, 1), zticks=(0, 0.5, 1), xlim=(0, width), ylim=(height, 0))
            axes.set_box_aspect((width, height, 0.75 * max(panel.shape)))
            axes.tick_params(labelsize=5, pad=-4)
            for axis in "xy":
                axes.locator_params(axis=axis, nbins=3)
            axes.view_init(elev=32, azim=-60)
        grid[row][0].text2D(-0.04, 0.5, name, transform=grid[row][0].transAxes, fontsize=7,
                            rotation=90, va="center")
    for axes, column in zip(grid[0], columns):
        axes.set_title(column, fontsize=8, pad=0)
    figure.subplots_adjust(left=0.25 / figure.get_figwidth(), right=0.985, bottom=0.02,
                           top=1 - 0.25 / figure.get_figheight(), wspace=0.08, hspace=0.04)
    save_figure(figure, paths, 150)


def _coarse(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the highest value of each cell of a grid of at most CELLS × CELLS."""
    step = -(-max(panel.shape) // CELLS)
    starts = [np.arange(0, length, step) for length in panel.shape]
    highest = np.maximum.reduceat(np.maximum.reduceat(panel, starts[0], 0), starts[1], 1)
    return *np.meshgrid(starts[1], starts[0]), highest.astype(float)
