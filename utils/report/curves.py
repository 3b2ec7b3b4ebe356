"""Curves of training and of scores, at the size of a paper's columns, 300 dots per inch.

A further curve of scores is a function of an `Evaluator` and a row in `SCORE_CURVES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Tuple

import numpy as np

from evaluation import Evaluator
from utils.report.drawing import new_figure
from utils.training.logs import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, FULL_WIDTH = 3.5, 7.16  # inches: one column, both columns
DPI = 300
# Okabe and Ito's colours, told apart by colour-blind readers; the dashes tell them apart in grey.
STYLES = [{"color": color, "linestyle": dashes} for color, dashes in (
    ("#0072B2", "-"),
    ("#D55E00", (0, (5, 1.5))),
    ("#009E73", (0, (5, 1.5, 1, 1.5))),
    ("#000000", (0, (1.2, 1.2))),
    ("#CC79A7", (0, (9, 2))),
    ("#E69F00", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (2, 2))),
)]
RC = {
    "figure.constrained_layout.use": True,
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
    panels = [("Loss", "loss", histories), ("Loss (log scale)", "loss", histories)]
    panels += [("mIoU", "mIoU", scored)] if any(scored.values()) else []
    alone = len(histories) == 1
    columns = 2 if max(map(len, histories)) < 20 else 1
    rows = 0 if alone else math.ceil(len(histories) / columns)
    with stacked_panels(path, len(panels), 1.4, legend_rows=rows) as axes:
        for axis, (label, key, runs) in zip(axes, panels):
            log, drawn = "log" in label, []
            for (name, run), style in zip(runs.items(), cycle(STYLES)):
                values = np.array([getattr(record, key) for record in run], float)
                drawn.append(np.where(np.isfinite(values), values, np.nan))
                _draw(axis, [r.epoch for r in run], drawn[-1], label=name, **style)
            if alone and not log and np.isfinite(drawn[0]).any():
                best, word = (np.nanargmin, "lowest") if key == "loss" else (np.nanargmax, "best")
                epoch, value = run[best(drawn[0])].epoch, drawn[0][best(drawn[0])]
                axis.plot(epoch, value, "o", color="black")
                axis.set_title(f"{word} {value:.4g} (epoch {epoch})", loc="right")
            axis.set_ylabel(label)
            _scale(axis, np.concatenate(drawn), log)
        epochs_axis(axes, [r.epoch for run in histories.values() for r in run])
        if alone:
            axes[0].figure.suptitle(title)
        else:
            legend_above(axes, title, columns)


# The points of a curve, x and y, and the point (x, y) at the threshold of the tables.
Curve = Tuple[np.ndarray, np.ndarray, Tuple[float, float]]


def _roc(evaluator: Evaluator) -> Curve:
    fpr, tpr = evaluator.roc()
    # To (0, 0), where no pixel is lit.
    return _with_dot(np.append(fpr, 0), np.append(tpr, 0), evaluator)


def _recall_precision(evaluator: Evaluator) -> Curve:
    precision, recall = evaluator.precision_recall()
    # At threshold 0 every pixel is lit.
    return _with_dot(np.append(np.nan, recall[1:]), precision, evaluator)


def _with_dot(x: np.ndarray, y: np.ndarray, evaluator: Evaluator) -> Curve:
    at = round(200 * evaluator.threshold)  # of the 201 thresholds of the official ROC
    return x, y, (x[at], y[at])


def _pd_fa(evaluator: Evaluator) -> Curve:
    """Empty, but for the dot, if the evaluator has no grid."""
    sweep, strict = evaluator.sweep(), evaluator.compute()["strict"]
    return sweep.fa, sweep.pd, (strict["Fa"], strict["Pd"])


# Title, labels of x and y, scale of x, and the function that gives the curve of an `Evaluator`.
SCORE_CURVES = (
    ("ROC", "False-alarm rate (background pixels)", "Targets hit", "linear", _roc),
    ("ROC, log", "False-alarm rate, log scale", "", "log", _roc),
    ("Precision-recall", "Recall of pixels", "Precision of pixels", "linear", _recall_precision),
    ("Pd-Fa, strict", "Fa, log scale", "Pd", "log", _pd_fa),
)


def save_score_curves(
    paths: Sequence[str | Path], evaluators: Mapping[str, Evaluator], dataset_name: str
) -> None:
    """Draws the panels of `SCORE_CURVES`: a curve per model, and a dot at its threshold.

    Args:
        paths: the files to write; the suffix chooses the format.
        evaluators: by the name that the legend shows.
        dataset_name: the dataset whose test list was scored.
    """
    rows = math.ceil(len(evaluators) / 2)
    with new_figure(paths, (FULL_WIDTH, 2.35 + 0.14 * rows), RC, DPI) as figure:
        axes = figure.subplots(1, len(SCORE_CURVES))
        for axis, (title, xlabel, ylabel, scale, points) in zip(axes, SCORE_CURVES):
            for (name, evaluator), style in zip(evaluators.items(), cycle(STYLES)):
                x, y, dot = points(evaluator)
                if scale == "log":  # which has no zero
                    x, dot = np.where(x > 0, x, np.nan), (dot[0] or np.nan, dot[1])
                scores = evaluator.compute()
                axis.plot(x, y, **style, label=f"{name} (AUC {scores['AUC']:.4f}, F-score "
                          f"{scores['fscore']:.4f})")
                axis.plot(*dot, "o", color=style["color"])
            axis.set_title(title, loc="right")
            axis.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
            if scale == "log":
                data = axis.dataLim
                low = data.y0 if np.isfinite(data.y0) else 0  # not if nothing is drawn
                margin = 0.05 * (1.02 - low)
                right = min(1, 1.5 * data.x1) if data.x1 > 0 else 1
                axis.set(xscale="log", xlim=(min(data.minposx, 0.1 * right) / 1.5, right),
                         ylim=(low - margin, 1 + margin))
        legend_above(axes, f"{dataset_name}, test list; each map divided by its maximum, but for "
                     f"Pd-Fa; dots: threshold {evaluator.threshold:g}", 2 if rows > 1 else 1)


@contextmanager
def stacked_panels(
    path: str | Path, rows: int, panel_height: float, legend_rows: int = 0, width: float = WIDTH
) -> Iterator[list[Axes]]:
    """Yields panels that stand on each other and share an axis; writes the figure at the end."""
    height = rows * panel_height + 0.45 + 0.14 * legend_rows
    with new_figure([path], (width, height), RC, DPI) as figure:
        yield list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


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
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    positive = values[values > 0]
    if not positive.size:
        axis.text(0.5, 0.5, "nothing to show", transform=axis.transAxes, ha="center", va="center")
        axis.set_yticks([])
        return
    low, high = positive.min(), positive.max()
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    if log:
        axis.set_yscale("log", nonpositive="mask")
        margin = (high / low) ** 0.06 if high > 1.1 * low else 1.25
        axis.set_ylim(low / margin, high * margin)
        # 0.02, 0.05, 0.1 rather than 10^-1: half the readers' question is "how low does it get".
        axis.yaxis.set_major_formatter("{x:g}")
        if high > 6.3 * low:
            ticks = LogLocator(subs=(1, 2, 5) if high < 316 * low else (1,), numticks=12)
    else:
        axis.set_ylim(0, 1.07 * high)
    axis.yaxis.set_major_locator(ticks)
    axis.yaxis.set_minor_locator(NullLocator())
