"""Figures of what the LLSKMs of a network see of an image, and of their kernels.

All sizes are in inches.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from evaluation.pd_fa import find_regions
from model import build_model
from utils.checkpoint.weights import load_weights
from utils.data.images import stretch, to_float
from utils.datasets import ImageList
from utils.paths import Paths
from utils.predict.capture import Branch, Stage, capture_stages
from utils.predict.overlays import paint
from utils.report.drawing import new_figure
from utils.report.panels import SHARP, TARGET, region_rings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP, GAP, WORDS, BARS, LABEL = 1.25, 0.12, 0.27, 0.24, 0.5  # a map, and what is around it
DPI, CELLS = 240, 300  # so that each cell of a map, of at most so many on a side, has a dot
KERNEL, BESIDE, STRIP, PAIRS = 0.85, 0.22, 0.06, 4  # PAIRS: kernels shown per branch
GREATER, SIGNED = "viridis", "RdBu_r"  # colours from zero upwards, and to both sides of zero
RC = {"font.size": 6, "axes.linewidth": 0.4, "xtick.major.width": 0.4, "ytick.major.width": 0.4,
      "xtick.major.size": 1.5, "ytick.major.size": 1.5, "xtick.major.pad": 1.5,
      "ytick.major.pad": 1.5}


class Seen(NamedTuple):
    """What a network sees of one image.

    Attributes:
        name: of the image.
        image: H×W, any range.
        mask: H×W, non-zero on targets.
        stages: of `utils.predict.capture.capture_stages`.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    stages: Sequence[Stage]

    def at(self, level: int, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps of a level without the network's padding, and where the targets are on them."""
        step = 2**level
        height, width = (-(-side // step) for side in self.image.shape)
        fine = np.zeros((height * step, width * step), bool)
        fine[: self.image.shape[0], : self.image.shape[1]] = self.mask > 0
        target = fine.reshape(height, step, width, step).any((1, 3))
        return maps[:, :height, :width], target


def save_kernels(
    output_dir: str | Path, split: ImageList, rows: Sequence[int], model_name: str,
    weights: str | Path,
) -> list[Path]:
    """Draws the contrast stages of a network for some images, and its kernels at θ of the first.

    Args:
        rows: indices of the images.
        weights: a file of weights.

    Returns:
        The files written.

    Raises:
        UserError: the weights cannot be read, or do not fit.
    """
    net = build_model(model_name)
    load_weights(net, weights)
    images = [Seen(split.names[row], split.images[row], split.masks[row],
                   capture_stages(net, to_float(split.images[row])))
              for row in tqdm(rows, model_name, unit="image", leave=False, disable=None)]
    paths = Paths(output_dir)
    stages = paths.stages(split.dataset, model_name)
    stages_figure(stages, images, f"{model_name} on {split.dataset}: what its contrast stages see")
    kernels = paths.kernels(split.dataset, model_name)
    kernels_figure(kernels, images[0], f"{model_name}: its kernels at θ of {images[0].name}")
    return [*stages, *kernels]


def best_channel(maps: np.ndarray, target: np.ndarray) -> int:
    """The channel of C×H×W maps in which the targets stand out most.

    By the distance between the mean of the targets and the mean of all else, in standard deviations
    of all else. Without a target: by the value farthest from the mean.
    """
    rest = flat = maps.reshape(len(maps), -1)
    away = np.abs(flat - flat.mean(1, keepdims=True)).max(1)
    if target.any() and not target.all():
        rest = maps[:, ~target]
        away = np.abs(maps[:, target].mean(1) - rest.mean(1))
    return int(np.argmax(away / (rest.std(1) + 1e-12)))


def stages_figure(paths: Sequence[Path], images: Sequence[Seen], title: str) -> None:
    """Draws the contrast stages of one network, four rows per image: a row per level.

    A row has the map before the stage, the response and θ of each branch, and the map after the
    stage. Each map is that of `best_channel`, and names it.
    """
    columns = 2 + max(len(stage.branches) for stage in images[0].stages)
    width = LABEL + columns * (MAP + GAP)
    heights = [MAP * min(seen.image.shape[0] / seen.image.shape[1], 2) + WORDS + BARS + GAP
               for seen in images]
    height = 0.35 + sum(len(seen.stages) * row for seen, row in zip(images, heights)) + 0.45
    with new_figure(paths, (width, height), RC, DPI) as figure:
        top = 0.35
        for seen, row in zip(images, heights):
            _draw_image(figure, seen, top, row, columns)
            for level, stage in enumerate(seen.stages):
                _draw_stage(figure, seen, level, stage, top, row, columns)
                top += row
        for label, color, ticks, left in (
            ("before and after", GREATER, ("0", "value above"), LABEL),
            ("response of a branch", SIGNED, ("−value", "0", "value above"), LABEL + 2 * MAP),
        ):
            axes = _axes(figure, left + 0.2, height - 0.33, MAP, 0.08)
            axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=color)
            axes.set(xticks=np.linspace(0, 255, len(ticks)), xticklabels=ticks)
            axes.set_title(label, fontsize=6, pad=2)
        axes = _axes(figure, LABEL + 4 * MAP + 0.2, height - 0.33, 2 * MAP, 0.08)
        axes.axis("off")
        axes.text(0, 1, "bars: θ of each channel of the branch, 0 to 1; red: the channel\n"
                  "shown; circles: the targets", va="center")
        figure.suptitle(title, fontsize=8, y=1 - 0.06 / height, va="top")


def _draw_image(figure, seen, top, row, columns):
    """Draws the image where the coarser levels have no branches."""
    half = len(seen.stages) // 2
    used = max(len(stage.branches) for stage in seen.stages[half:])
    free = columns - 2 - used
    if free < 1:
        return
    side = free * (MAP + GAP) - GAP
    height = min(side * min(seen.image.shape[0] / seen.image.shape[1], 2),
                 (len(seen.stages) - half) * row - WORDS - GAP)
    axes = _axes(figure, LABEL + (1 + used) * (MAP + GAP), top + half * row + WORDS, side, height)
    scale = max(round(SHARP / max(seen.image.shape)), 1)
    axes.imshow(paint(stretch(seen.image), scale,
                      region_rings(find_regions(seen.mask > 0), TARGET), bold=2))
    axes.set_title(f"{seen.name}, its targets circled", fontsize=6, pad=2)


def _draw_stage(figure, seen, level, stage, top, row, columns):
    height = row - WORDS - BARS - GAP
    cells = [("before", stage.before), *((_name(branch), branch.response)
                                         for branch in stage.branches), ("after", stage.after)]
    for index, (name, maps) in enumerate(cells):
        signed = 0 < index < len(cells) - 1
        place = columns - 1 if name == "after" else index
        left = LABEL + place * (MAP + GAP)
        axes = _axes(figure, left, top + WORDS, MAP, height)
        cropped, target = seen.at(level, maps)
        channel = best_channel(cropped, target)
        shown = cropped[channel]
        most = float(np.abs(shown).max()) or 1.0
        axes.imshow(_shrunk(shown), cmap=SIGNED if signed else GREATER,
                    vmin=-most if signed else 0, vmax=most, aspect="auto", interpolation="nearest",
                    extent=(0, shown.shape[1], shown.shape[0], 0))
        for ring in region_rings(find_regions(seen.mask > 0), ""):
            x, y = (ring.column + 0.5) / 2**level, (ring.row + 0.5) / 2**level
            axes.plot(x, y, "o", fillstyle="none", color="black" if signed else "white",
                      markersize=9, markeredgewidth=0.5)
        axes.set_title(f"{name}\nchannel {channel}, {'±' if signed else '0 to '}{most:.3g}",
                       fontsize=6, pad=2)
        if index == 0:
            axes.set_ylabel(f"level {level}\n{len(maps)} channels, {shown.shape[1]}×"
                            f"{shown.shape[0]}")
        if signed:
            theta = stage.branches[index - 1].theta
            bars = _axes(figure, left, top + WORDS + height + 0.03, MAP, BARS - 0.03)
            bars.stairs(theta, np.arange(len(theta) + 1) - 0.5, fill=True, color="#9db4c8")
            bars.bar(channel, theta[channel], 1, color="#c1121f")
            bars.set(xlim=(-0.5, len(theta) - 0.5), ylim=(0, 1))
            if index == 1:
                bars.set(yticks=[0, 1], ylabel="θ")


def _shrunk(shown):
    """A map; if it is large, in cells of several pixels, by the value farthest from zero."""
    from skimage.measure import block_reduce

    step = ceil(max(shown.shape) / CELLS)
    low, high = (sign * block_reduce(sign * shown, step, np.max) for sign in (-1, 1))
    return np.where(high > -low, high, low)


def kernels_figure(paths: Sequence[Path], seen: Seen, title: str) -> None:
    """Draws the kernels of all branches of one network at the θ of one image, a row per branch.

    A row begins with the mean kernel over all pairs of channels. Then come the largest kernels, by
    the sum of |K| over the taps, that make the channel which `stages_figure` shows. Colours end at
    the largest tap beside the centre tap, whose value is written above. A separable kernel has its
    row below and its column on the left.
    """
    rows = [(level, branch) for level, stage in enumerate(seen.stages)
            for branch in stage.branches]
    separable = any(branch.row is not None for _, branch in rows)
    title += "\ncolours end at the largest tap beside the centre tap, whose value is written above"
    if separable:
        title += ";\nbelow: row; left: column; their colours end at the value after ±"
    start, row = 1.35, KERNEL + (0.5 if separable else 0.38)
    width = start + (PAIRS + 1) * (KERNEL + BESIDE) + 1.1
    height = 0.8 + len(rows) * row
    with new_figure(paths, (width, height), RC) as figure:
        for index, (level, branch) in enumerate(rows):
            top = 0.8 + index * row
            maps, target = seen.at(level, branch.response)
            channel = best_channel(maps, target)
            largest = np.argsort(-np.abs(branch.kernel[channel]).sum((1, 2)), kind="stable")[:PAIRS]
            label = (f"level {level}, {_name(branch)}\nto channel {channel},\n"
                     f"θ = {branch.theta[channel]:.2f}")
            figure.text(0.1 / width, 1 - (top + KERNEL / 2) / height, label, va="center")
            arrays = branch.kernel, branch.row, branch.column
            means = [None if array is None else array.mean((0, 1))[None] for array in arrays]
            _draw_kernels(figure, means, ["mean of all pairs"], top, start)
            chosen = [None if array is None else array[channel, largest] for array in arrays]
            _draw_kernels(figure, chosen, [f"from channel {pair}" for pair in largest], top,
                          start + KERNEL + BESIDE + 0.5)
        figure.suptitle(title, fontsize=7, y=1 - 0.06 / height, va="top")


def _draw_kernels(figure, arrays, names, top, left):
    """Draws kernels, P×k×k, beside each other, rows and columns if any, and the colour bar."""
    kernels, rows, columns = arrays
    half = kernels.shape[1] // 2
    around = np.abs(kernels)
    around[:, half, half] = 0
    most = around.max() or 1.0
    for index, (name, kernel) in enumerate(zip(names, kernels)):
        x, title = left + index * (KERNEL + BESIDE), f"{name}\ncentre {kernel[half, half]:.2g}"
        axes = _axes(figure, x, top, KERNEL, KERNEL)
        image = axes.imshow(kernel, cmap=SIGNED, vmin=-most, vmax=most)
        if rows is not None:
            reach = max(np.abs(rows[index]).max(), np.abs(columns[index]).max()) or 1.0
            title += f", ±{reach:.2g}"
            _draw_strips(axes, rows[index], columns[index], reach)
        axes.set_title(title, fontsize=6, pad=2)
    bar = _axes(figure, x + KERNEL + 0.06, top, 0.06, KERNEL)
    figure.colorbar(image, cax=bar, ticks=[-most, 0, most], format="%.2g", extend="both")


def _draw_strips(axes, row, column, reach):
    """Draws a row below a kernel, and a column on its left."""
    from matplotlib.patches import Rectangle

    size = row.shape[1]
    start, end = -0.5, size - 0.5  # of the kernel, in taps
    thick, gap = (inches / KERNEL * size for inches in (STRIP, STRIP / 2))
    for strip, (x0, x1, y0, y1) in ((row, (start, end, end + gap, end + gap + thick)),
                                    (column, (start - gap - thick, start - gap, start, end))):
        axes.imshow(strip, cmap=SIGNED, vmin=-reach, vmax=reach, extent=(x0, x1, y1, y0),
                    clip_on=False)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=0.4,
                                 clip_on=False))
    axes.set(xlim=(start, end), ylim=(end, start))


def _name(branch: Branch) -> str:
    dilated = f", dilation {branch.dilation}" if branch.dilation > 1 else ""
    return f"{branch.size}×{branch.size}{dilated}"


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks; left and top are distances from the figure's upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, 1 - (top + height) / whole_height,
                            width / whole_width, height / whole_height), xticks=[], yticks=[])
