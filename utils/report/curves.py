"""Curves of training and of scores, at the size of a paper's columns, 300 dots per inch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import Evaluator
from utils.report.drawing import save_figure, settings
from utils.training.logs import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, FULL_WIDTH = 3.5, 7.16  # inches: one column, both columns
DPI = 300
# Okabe and Ito's colours, told apart by colour-blind readers; the dashes tell them apart in grey.
STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", (0, (5, 1.5))),
    ("#009E73", (0, (5, 1.5, 1, 1.5))),
    ("#000000", (0, (1.2, 1.2))),
    ("#CC79A7", (0, (9, 2))),
    ("#E69F00", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (2, 2))),
)
LOSSES, MIOU = ("Loss", "Loss (log scale)"), "mIoU"
RC = {
    "font.size": 7, "axes.titlesize": 7, "axes.titlepad": 2.5, "figure.titlesize": 8,
    "axes.linewidth": 0.5, "xtick.major.width": 0.5, "ytick.major.width": 0.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "ytick.minor.size": 1.5,
    "ytick.minor.width": 0.4, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4,
    "grid.color": "#e3e3e3", "lines.linewidth": 1.0, "lines.markersize": 2.8,
    "lines.markeredgewidth": 0, "legend.frameon": False, "legend.handlelength": 2.6,
    "legend.title_fontsize": 8,
}


def save_curves(
    path: str | Path, histories: Mapping[str, Sequence[EpochRecord]], title: str
) -> None:
    """Draws runs: loss on a linear and on a log scale, and mIoU if any run was evaluated.

    Args:
        path: the .png to write.
        histories: the records of each run, by the name that the legend shows.
        title: above the figure.
    """
    scored = {name: [r for r in run if r.mIoU is not None] for name, run in histories.items()}
    panels = [*LOSSES, *([MIOU] if any(scored.values()) else [])]
    alone = len(histories) == 1
    columns = 2 if max(map(len, histories)) < 20 else 1
    rows = 0 if alone else math.ceil(len(histories) / columns)
    with stacked_panels(path, len(panels), 1.4, legend_rows=rows) as axes:
        for axis, panel in zip(axes, panels):
            key, runs = ("mIoU", scored) if panel == MIOU else ("loss", histories)
            for (name, run), style in zip(runs.items(), _styles(len(runs))):
                values = _values(run, key)
                _draw(axis, [r.epoch for r in run], values, label=name, **style)
                if alone and panel != LOSSES[1] and np.isfinite(values).any():
                    best = run[(np.nanargmin if key == "loss" else np.nanargmax)(values)]
                    axis.plot(best.epoch, getattr(best, key), "o", color="black")
                    word = "lowest" if key == "loss" else "best"
                    axis.set_title(f"{word} {getattr(best, key):.4g} (epoch {best.epoch})",
                                   loc="right")
            axis.set_ylabel(panel)
            _scale(axis, np.concatenate([_values(run, key) for run in runs.values()]),
                   log=panel == LOSSES[1])
        epochs_axis(axes, [r.epoch for run in histories.values() for r in run])
        if alone:
            axes[0].figure.suptitle(title)
        else:
            legend_above(axes, title, columns)


def save_score_curves(
    paths: Sequence[str | Path], evaluators: Mapping[str, Evaluator], dataset_name: str
) -> None:
    """Draws the comparable ROC on a linear and a log false-alarm axis, and precision-recall.

    Args:
        paths: the files to write; the suffix chooses the format.
        evaluators: by the name that the legend shows.
        dataset_name: the dataset whose test list was scored.
    """
    with settings(RC):
        from matplotlib.figure import Figure

        rows = math.ceil(len(evaluators) / 2)
        figure = Figure(figsize=(FULL_WIDTH, 2.35 + 0.14 * rows), layout="constrained")
        linear, log, pixels = axes = figure.subplots(1, 3)
        lowest_rate, lowest_hits = 0.1, 1.0
        for (name, evaluator), style in zip(evaluators.items(), _styles(len(evaluators))):
            fpr, tpr = evaluator.roc()
            precision, recall = evaluator.precision_recall()
            at = round(evaluator.threshold * (len(fpr) - 1))
            scores = evaluator.compute()
            # To (0, 0), where no pixel is lit.
            linear.plot([*fpr, 0], [*tpr, 0], **style, label=f"{name} (AUC {scores['AUC']:.4f}, "
                        f"F-score {scores['fscore']:.4f})")
            log.plot(np.where(fpr > 0, fpr, np.nan), tpr, **style)
            pixels.plot(recall[1:], precision[1:], **style)
            for axis, x, y in ((log, fpr[at], tpr[at]), (pixels, recall[at], precision[at])):
                axis.plot(x, y, "o", color=style["color"])
            lowest_rate = min([lowest_rate, *fpr[1:][fpr[1:] > 0]])
            lowest_hits = min(lowest_hits, tpr.min())
        linear.set(xlim=(-0.02, 1), ylim=(0, 1.02), ylabel="Targets hit",
                   xlabel="False-alarm rate (background pixels)")
        margin = 0.05 * (1.001 - lowest_hits)
        log.set(xscale="log", xlim=(lowest_rate / 1.5, 1), ylim=(lowest_hits - margin, 1 + margin),
                xlabel="False-alarm rate, log scale")
        pixels.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), xlabel="Recall of pixels",
                   ylabel="Precision of pixels")
        for axis, name in zip(axes, ("ROC", "ROC, log", "Precision-recall")):
            axis.set_title(name, loc="right")
        legend_above(axes, f"{dataset_name}, test list; each map divided by its maximum; dots: "
                     f"threshold {evaluator.threshold:g}", 2 if rows > 1 else 1)
        save_figure(figure, paths, DPI)


@contextmanager
def stacked_panels(
    path: str | Path, rows: int, panel_height: float, legend_rows: int = 0, width: float = WIDTH
) -> Iterator[list[Axes]]:
    """Yields panels that stand on each other and share an axis; writes the figure at the end."""
    with settings(RC):
        from matplotlib.figure import Figure

        height = rows * panel_height + 0.45 + 0.14 * legend_rows
        figure = Figure(figsize=(width, height), layout="constrained")
        yield list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
        save_figure(figure, [path], DPI)


def legend_above(axes: Sequence[Axes], title: str, columns: int = 2) -> None:
    """The legend of the first panel above the figure, with the figure's title."""
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside upper center", ncols=columns, title=title)


def epochs_axis(axes: Sequence[Axes], numbers: Sequence[int], name: str = "Epoch") -> None:
    """Whole numbers on the shared x axis, the first and the last one clear of the frame."""
    from matplotlib.ticker import MaxNLocator

    first, last = min(numbers), max(numbers)
    margin = max(0.02 * (last - first), 0.25)
    axes[-1].set(xlim=(first - margin, last + margin), xlabel=name)
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True,
                                                 min_n_ticks=1))
    axes[0].figure.align_ylabels(axes)


def _styles(count: int) -> list[dict[str, Any]]:
    styles = (STYLES[index % len(STYLES)] for index in range(count))
    return [{"color": color, "linestyle": dashes} for color, dashes in styles]


def _values(run: Sequence[EpochRecord], key: str) -> np.ndarray:
    """One number per record, NaN where it is not finite."""
    values = np.array([getattr(record, key) for record in run], float)
    return np.where(np.isfinite(values), values, np.nan)


def _draw(axis: Axes, epochs: Sequence[int], values: np.ndarray, **style: Any) -> None:
    """A line, with dots on all points if they are few, else on points without a neighbour."""
    dots = np.flatnonzero(~np.isnan(values))
    if len(dots) > 30:
        gap = np.concatenate([[True], np.diff(dots) > 1, [True]])
        dots = dots[gap[:-1] & gap[1:]]
    if len(dots):  # else the legend would show dots that the curve does not have
        style.update(marker="o", markevery=dots.tolist())
    axis.plot(epochs, values, **style)


def _scale(axis: Axes, values: np.ndarray, log: bool) -> None:
    """Limits and ticks that suit the positive values, be they one value or three decades."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    positive = values[values > 0]
    if not positive.size:
        axis.text(0.5, 0.5, "nothing to show", transform=axis.transAxes, ha="center", va="center")
        axis.set_yticks([])
        return
    low, high = positive.min(), positive.max()
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if not log:
        axis.set_ylim(0, 1.07 * high)
        return
    axis.set_yscale("log", nonpositive="mask")
    margin = (high / low) ** 0.06 if high > 1.1 * low else 1.25
    axis.set_ylim(low / margin, high * margin)
    # 0.02, 0.05, 0.1 rather than 10^-1: half the readers' question is "how low does it get".
    decades = math.log10(high / low)
    if decades > 2.5:
        axis.yaxis.set_major_locator(LogLocator(numticks=6))
    else:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12) if decades > 0.8
                                     else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
