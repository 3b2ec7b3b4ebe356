"""Figures of detections: the image, its mask and what each network sees, tiny targets enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIT, MISS, TARGET = "#35c46a", "#ff4d4d", "#ffd23f"


def detection_figure(
    path: str | Path,
    names: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Draws one row per image: the image, its mask, one column per network; an inset zooms in.

    Circles: yellow around a target; green around a region (prediction > 0.5) whose centroid lies
    less than 3 pixels from a target's, red around any other; a dashed red one around a target
    without such a region.

    Args:
        path: the file to write; its suffix chooses the format.
        names: one label per image.
        images: H×W, any range.
        masks: H×W, non-zero on targets.
        predictions: for each network, one H×W map of probabilities per image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = ["image", "ground truth", *predictions]
    size = 1.75
    figure = Figure(figsize=(size * len(columns) + 0.25, size * len(images) + 0.6))
    FigureCanvasAgg(figure)  # no display needed, and pyplot's settings stay untouched
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, (name, image, mask) in enumerate(zip(names, images, masks)):
        targets = _centroids(mask > 0)
        centre = targets[0] if len(targets) else np.array(image.shape) / 2
        panels = [image, mask > 0, *(maps[row] for maps in predictions.values())]
        for column, (axes, panel) in enumerate(zip(grid[row], panels)):
            limits = (0, 1) if column else (float(np.min(image)), float(np.max(image)))
            zoom = _show(axes, panel, limits, centre)
            if column < 2:
                _circles([axes, zoom], targets, TARGET)
            else:
                regions = _centroids(panel > 0.5)
                near = np.linalg.norm(regions[:, None] - targets[None], axis=2) < 3
                _circles([axes, zoom], regions[near.any(axis=1)], HIT)
                _circles([axes, zoom], regions[~near.any(axis=1)], MISS)
                _circles([axes, zoom], targets[~near.any(axis=0)], MISS, "--")
            if row == 0:
                axes.set_title(columns[column], fontsize=8, pad=4)
        grid[row][0].set_ylabel(name, fontsize=7)
    legend = [
        Line2D([], [], ls=style, color=color, label=label)
        for label, color, style in (("target", TARGET, "-"), ("detected", HIT, "-"),
                                    ("false alarm", MISS, "-"), ("missed", MISS, "--"))
    ]
    figure.legend(handles=legend, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.subplots_adjust(left=0.2 / figure.get_figwidth(), right=0.995, wspace=0.04, hspace=0.04,
                           top=1 - 0.25 / figure.get_figheight(),
                           bottom=0.32 / figure.get_figheight())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _centroids(binary: np.ndarray) -> np.ndarray:
    """Centroids (row, column) of the 8-connected regions, n×2, the largest region first."""
    labels, count = ndimage.label(binary, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros((0, 2))
    order = np.argsort(-np.bincount(labels.ravel())[1:], kind="stable")
    return np.array(ndimage.center_of_mass(binary, labels, order + 1))


def _show(axes: Axes, panel: np.ndarray, limits: tuple[float, float], centre: np.ndarray) -> Axes:
    """Shows the panel with an inset around `centre`, in the corner away from it."""
    height, width = panel.shape
    half = max(min(height, width) / 16, 8)
    row, column = (np.clip(c, half, n - half) for c, n in zip(centre, (height, width)))
    side = 0.42
    corner = (0.0 if column > width / 2 else 1 - side, 1 - side if row > height / 2 else 0.0)
    zoom = axes.inset_axes([*corner, side, side])
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
    for axes, size in zip(both, (7, 22)):
        for row, column in centres:
            if axes is both[1]:
                (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
                if not (left < column < right and top < row < bottom):
                    continue
            axes.scatter(column, row, s=size**2, facecolors="none", edgecolors=color,
                         linestyles=style, linewidths=0.9)
