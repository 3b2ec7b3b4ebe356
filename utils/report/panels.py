"""Figures of detections: the image, its mask and what each network sees, tiny targets enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from evaluation import Evaluator
from evaluation.pd_fa import centroid_distances, find_regions, match_optimally
from utils.datasets import ImageList
from utils.paths import Paths
from utils.predict.prediction_files import predictions_of, read_prediction, read_predictions
from utils.report.drawing import save_figure, settings
from utils.report.tables import describe_image, worst_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELLS = 72  # on a side of a surface
HIT, MISS, TARGET = "#35c46a", "#ff4d4d", "#ffd23f"


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
        folders: model name -> where its predictions lie.
        rows: indices of the images; by default some with a target.
        surface: draws them as surfaces in 3-D as well.

    Returns:
        The files, .png and .pdf, of the surfaces last.

    Raises:
        UserError: as `read_predictions`.
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
    """Draws the panels of the worst images, each into a file of its own.

    What an earlier call left there is removed.

    Args:
        split: the images that were scored.
        folder: of the predictions.
        evaluator: their scores, in the order of the split.

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
            paths[-1], [""], [split.images[index]], [split.masks[index]],
            {model_name: [read_prediction(files[name])]},
            threshold=evaluator.threshold, title=describe_image(name, image), size=2.4,
            zoom_on_errors=True,
        )
    return paths


@settings({})
def detection_figure(
    paths: str | Path | Sequence[str | Path],
    names: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    threshold: float = 0.5,
    title: str = "",
    size: float = 1.75,
    zoom_on_errors: bool = False,
) -> None:
    """Draws one row per image: the image, its mask, one column per network; an inset zooms in.

    Circles: yellow around a target; green around a region (prediction > threshold) that detects a
    target in the strict sense of `evaluation`, red around any other; a dashed red one around a
    target that is not detected.

    Args:
        paths: the file to write, or several; the suffix chooses the format.
        names: one label per image.
        images: H×W, any range.
        masks: H×W, non-zero on targets.
        predictions: for each network, one H×W map of probabilities per image.
        threshold: a pixel is detected above it.
        title: what stands above the figure.
        size: width of a panel in inches.
        zoom_on_errors: the inset shows the largest region that a network has wrong; otherwise,
            and where there is none, the largest target.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = ["image", "ground truth", *predictions]
    head = 0.5 if title else 0.25
    # A row is as high as its panels are; images of all shapes may meet in one figure.
    heights = [size * min(image.shape[0] / image.shape[1], 2) for image in images]
    width, height = size * len(columns) + 0.25, sum(heights) + 0.35 + head
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(images), len(columns), squeeze=False,
                           gridspec_kw={"height_ratios": heights})
    for row, (name, image, mask) in enumerate(zip(names, images, masks)):
        targets = find_regions(mask > 0)
        maps = [maps[row] for maps in predictions.values()]
        found = [find_regions(panel > threshold) for panel in maps]
        wrong = [(panel > threshold) != (mask > 0) for panel in maps if zoom_on_errors]
        centre = _largest(np.any(wrong, axis=0), mask > 0) if wrong else _largest(mask > 0)
        marked = np.concatenate([each.centroids for each in (targets, *found)])
        corner = _free_corner(image.shape, centre, marked)
        for column, (axes, panel) in enumerate(zip(grid[row], [image, mask > 0, *maps])):
            limits = (0, 1) if column else (float(np.min(image)), float(np.max(image)))
            zoom = _show(axes, panel, limits, centre, corner)
            if column < 2:
                _circles([axes, zoom], targets.centroids, TARGET)
            else:
                regions = found[column - 2]
                pairs = np.array(match_optimally(centroid_distances(targets, regions)), int)
                hit, detecting = pairs.reshape(-1, 2).T
                _circles([axes, zoom], regions.centroids[detecting], HIT)
                _circles([axes, zoom], np.delete(regions.centroids, detecting, axis=0), MISS)
                _circles([axes, zoom], np.delete(targets.centroids, hit, axis=0), MISS, "--")
            if row == 0:
                axes.set_title(columns[column], fontsize=8, pad=4)
        grid[row][0].set_ylabel(name, fontsize=7)
    legend = [
        Line2D([], [], ls=style, color=color, label=label)
        for label, color, style in (("target", TARGET, "-"), ("detected", HIT, "-"),
                                    ("false alarm", MISS, "-"), ("missed", MISS, "--"))
    ]
    figure.legend(handles=legend, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, y=1 - 0.08 / height, va="top")
    figure.subplots_adjust(left=0.2 / width, right=0.995, wspace=0.04, hspace=0.04,
                           top=1 - head / height, bottom=0.32 / height)
    _save(figure, paths)


@settings({"font.size": 6, "grid.linewidth": 0.3, "axes.linewidth": 0.4})
def surface_figure(
    paths: str | Path | Sequence[str | Path],
    names: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Draws the same rows and columns as `detection_figure` as surfaces in 3-D.

    Arguments as there; images are stretched to [0, 1]. The surface takes the highest value of each
    cell of a coarse grid, and a face the colour of its highest corner: a mere sampling of the
    pixels would lose a target of two pixels, and their mean would pale it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = ["image", "ground truth", *predictions]
    size = 1.9
    figure = Figure(figsize=(size * len(columns) + 0.25, size * len(images) + 0.25))
    grid = figure.subplots(len(images), len(columns), squeeze=False,
                           subplot_kw={"projection": "3d"})
    for row, (name, image, mask) in enumerate(zip(names, images, masks)):
        image = (image - float(np.min(image))) / max(float(np.ptp(image)), 1e-6)
        for column, (axes, panel) in enumerate(
            zip(grid[row], [image, mask > 0, *(maps[row] for maps in predictions.values())])
        ):
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
            if row == 0:
                axes.set_title(columns[column], fontsize=8, pad=0)
        grid[row][0].text2D(-0.04, 0.5, name, transform=grid[row][0].transAxes, fontsize=7,
                            rotation=90, va="center")
    figure.subplots_adjust(left=0.25 / figure.get_figwidth(), right=0.985, bottom=0.02,
                           top=1 - 0.25 / figure.get_figheight(), wspace=0.08, hspace=0.04)
    _save(figure, paths)


def _coarse(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the highest value of each cell of a grid of at most CELLS × CELLS."""
    step = -(-max(panel.shape) // CELLS)
    starts = [np.arange(0, length, step) for length in panel.shape]
    highest = np.maximum.reduceat(np.maximum.reduceat(panel, starts[0], 0), starts[1], 1)
    return *np.meshgrid(starts[1], starts[0]), highest.astype(float)


def _save(figure: Figure, paths: str | Path | Sequence[str | Path]) -> None:
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        save_figure(figure, path, 300 if Path(path).suffix == ".pdf" else 150)


def _largest(*maps: np.ndarray) -> np.ndarray:
    """Row and column of the largest region of the first map that has one; else of the middle."""
    for regions in map(find_regions, maps):
        if len(regions.areas):
            return regions.centroids[np.argmax(regions.areas)]
    return np.array(maps[0].shape) / 2


def _inset_side(shape: tuple[int, int]) -> float:
    """Length of a side of the inset in pixels of the panel."""
    return min(0.42 * max(shape), 0.8 * min(shape))


def _free_corner(
    shape: tuple[int, int], centre: np.ndarray, marked: np.ndarray
) -> tuple[bool, bool]:
    """The corner (bottom, right) where an inset hides the fewest marks; of several the farthest.

    Args:
        centre: row and column that the inset shows.
        marked: n×2, rows and columns.
    """
    extent, side = np.array(shape), _inset_side(shape)
    costs = {}
    for corner in ((False, False), (False, True), (True, False), (True, True)):
        inside = np.where(corner, marked > extent - side, marked < side).all(axis=1).sum()
        distance = np.linalg.norm(np.where(corner, extent, 0) - centre)
        costs[corner] = (inside, -distance)
    return min(costs, key=costs.get)


def _show(
    axes: Axes,
    panel: np.ndarray,
    limits: tuple[float, float],
    centre: np.ndarray,
    corner: tuple[bool, bool],
) -> Axes:
    """Shows the panel with an inset around `centre` in a corner (bottom, right)."""
    height, width = panel.shape
    half = max(min(height, width) / 16, 8)
    row, column = (np.clip(c, half, n - half) for c, n in zip(centre, (height, width)))
    across, up = _inset_side(panel.shape) / np.array([width, height])
    bottom, right = corner
    zoom = axes.inset_axes([right * (1 - across), (not bottom) * (1 - up), across, up])
    for each in (axes, zoom):
        each.imshow(panel, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        each.set_xticks([])
        each.set_yticks([])
    zoom.set_xlim(column - half, column + half)
    zoom.set_ylim(row + half, row - half)
    for spine in zoom.spines.values():
        spine.set_edgecolor("#58a6ff")
    axes.indicate_inset(
        [column - half, row - half, 2 * half, 2 * half], edgecolor="#58a6ff", alpha=0.9, lw=0.8)
    return zoom


def _circles(both: Sequence[Axes], centres: np.ndarray, color: str, style: str = "-") -> None:
    """Marks the points in the panel and its inset, with rings of one size on paper."""
    (left, right), (bottom, top) = both[1].get_xlim(), both[1].get_ylim()
    rows, columns = centres.T
    inside = (left < columns) & (columns < right) & (top < rows) & (rows < bottom)
    for axes, size, shown in zip(both, (7, 22), (slice(None), inside)):
        axes.scatter(columns[shown], rows[shown], s=size**2, facecolors="none", edgecolors=color,
                     linestyles=style, linewidths=0.9)
