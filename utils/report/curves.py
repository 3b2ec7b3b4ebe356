"""Curves of training and of scores, at the size of a paper's columns, 300 dots per inch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation import Evaluator
from utils.report.drawing import save_figure, settings
from utils.training.logs import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.5  # inches: one column
FULL_WIDTH = 7.16  # both columns
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
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
RC = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same picture on every machine
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.8,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}


def save_loss_curve(path: str | Path, records: Sequence[EpochRecord], title: str) -> None:
    """Draws one model: loss on a linear and on a log scale, and mIoU where epochs were evaluated.

    Args:
        path: The .png to write.
        records: The history of one run, by epoch.
        title: What stands above the figure.
    """
    scored = _scored(records)
    panels = ["linear", "log"] + (["mIoU"] if scored else [])
    with stacked_panels(path, len(panels), panel_height=1.3) as axes:
        axes[0].figure.suptitle(title, fontsize=8)
        color, _ = STYLES[0]
        for axis, panel in zip(axes, panels):
            if panel == "mIoU":
                _draw_miou(axis, scored)
                continue
            _draw_curve(axis, *_losses(records), color=color)
            _finish_loss_axis(axis, [records], log=panel == "log")
        finite = [r for r in records if math.isfinite(r.loss)]
        if finite:
            lowest = min(finite, key=lambda r: r.loss)
            _note(axes[0], f"lowest {lowest.loss:.4g} (epoch {lowest.epoch})")
        _finish_epoch_axis(axes, [records])


def save_comparison(
    path: str | Path, histories: Mapping[str, Sequence[EpochRecord]], title: str
) -> None:
    """Draws several runs together: loss on a linear and on a log scale, and mIoU if any has it.

    Args:
        path: The .png to write.
        histories: The records of each run, by the name that the legend shows.
        title: What stands above the figure.
    """
    columns = 2 if max(map(len, histories)) < 20 else 1
    rows = math.ceil(len(histories) / columns)
    scored = {name: _scored(records) for name, records in histories.items()}
    panels = ["linear", "log"] + (["mIoU"] if any(scored.values()) else [])
    with stacked_panels(path, len(panels), panel_height=1.45, legend_rows=rows) as axes:
        for axis, panel in zip(axes, panels):
            for index, (name, records) in enumerate(histories.items()):
                color, dashes = STYLES[index % len(STYLES)]
                points = _mious(scored[name]) if panel == "mIoU" else _losses(records)
                _draw_curve(axis, *points, color=color, linestyle=dashes, label=name)
            if panel == "mIoU":
                _finish_miou_axis(axis, max(r.mIoU for run in scored.values() for r in run))
            else:
                _finish_loss_axis(axis, histories.values(), log=panel == "log")
        _finish_epoch_axis(axes, histories.values())
        handles, labels = axes[0].get_legend_handles_labels()
        # The title is the legend's: a title of the figure would lie under an outside legend.
        axes[0].figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=columns,
            title=title,
            title_fontsize=8,
        )


def save_score_curves(
    paths: Sequence[str | Path], evaluators: Mapping[str, Evaluator], dataset_name: str
) -> None:
    """Draws the comparable ROC on a linear and a log false-alarm axis, and precision-recall.

    Args:
        paths: The files to write; the suffix chooses the format.
        evaluators: By the name that the legend shows.
        dataset_name: Whose test list was scored.
    """
    with settings(RC):
        from matplotlib.figure import Figure

        rows = math.ceil(len(evaluators) / 2)
        figure = Figure(figsize=(FULL_WIDTH, 2.35 + 0.14 * rows), layout="constrained")
        linear, log, pixels = figure.subplots(1, 3)
        threshold = next(iter(evaluators.values())).threshold
        rates, hits = [], []
        for index, (name, evaluator) in enumerate(evaluators.items()):
            color, dashes = STYLES[index % len(STYLES)]
            style = {"color": color, "linestyle": dashes}
            fpr, tpr = evaluator.roc()
            precision, recall = evaluator.precision_recall()
            at = round(threshold * (len(fpr) - 1))
            scores = evaluator.compute()
            label = f"{name} (AUC {scores['AUC']:.4f}, F-score {scores['fscore']:.4f})"
            # From (0, 0), where no pixel is lit, to (1, 1).
            linear.plot([*fpr, 0], [*tpr, 0], label=label, **style)
            log.plot(np.where(fpr > 0, fpr, np.nan), tpr, **style)
            pixels.plot(recall[1:], precision[1:], **style)
            for axis, x, y in ((log, fpr[at], tpr[at]), (pixels, recall[at], precision[at])):
                axis.plot(x, y, "o", color=color, markeredgewidth=0)
            rates.append(fpr[1:][fpr[1:] > 0])
            hits.append(tpr)
        linear.set(xlim=(-0.02, 1), ylim=(0, 1.02), ylabel="Targets hit")
        lowest = min((rate.min() for rate in rates if len(rate)), default=1e-6)
        log.set(xscale="log", xlim=(min(lowest, 0.1) / 1.5, 1))
        bottom = min(hit.min() for hit in hits)
        log.set_ylim(bottom - 0.05 * (1.001 - bottom), 1 + 0.04 * (1.001 - bottom))
        pixels.set(xlim=(-0.02, 1.02), ylim=(0, 1.02), xlabel="Recall of pixels",
                   ylabel="Precision of pixels")
        linear.set_xlabel("False-alarm rate (background pixels)")
        log.set_xlabel("False-alarm rate, log scale")
        for axis, name in zip((linear, log, pixels), ("ROC", "ROC, log", "Precision-recall")):
            axis.grid(True)
            _note(axis, name)
        handles, labels = linear.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2 if rows > 1 else 1,
                      title=f"{dataset_name}, test list; each map divided by its maximum; dots: "
                      f"threshold {threshold:g}", title_fontsize=8)
        for path in paths:
            save_figure(figure, path, DPI)


@contextmanager
def stacked_panels(
    path: str | Path, rows: int, panel_height: float, legend_rows: int = 0, width: float = WIDTH
) -> Iterator[list[Axes]]:
    """Yields panels that stand on each other and share an axis; writes the figure at the end."""
    with settings(RC):
        from matplotlib.figure import Figure

        height = rows * panel_height + 0.45 + 0.14 * legend_rows
        figure: Figure = Figure(figsize=(width, height), layout="constrained")
        yield list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
        save_figure(figure, path, DPI)


def _losses(records: Sequence[EpochRecord]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r.epoch for r in records]), np.array([r.loss for r in records], float)


def _scored(records: Sequence[EpochRecord]) -> list[EpochRecord]:
    """Those of epochs that were evaluated."""
    return [r for r in records if r.mIoU is not None and math.isfinite(r.mIoU)]


def _mious(scored: Sequence[EpochRecord]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r.epoch for r in scored]), np.array([r.mIoU for r in scored], float)


def _draw_curve(axis: Axes, epochs: np.ndarray, values: np.ndarray, **style) -> None:
    """A line; with dots if the points are few, and on those that have no neighbour to join."""
    values = np.where(np.isfinite(values), values, np.nan)
    drawn = np.flatnonzero(~np.isnan(values))
    if len(drawn) > 30:
        gap = np.concatenate([[True], np.diff(drawn) > 1, [True]])
        drawn = drawn[gap[:-1] & gap[1:]]
    if len(drawn):  # else the legend would show dots that the curve does not have
        style.update(marker="o", markevery=drawn.tolist(), markeredgewidth=0)
    axis.plot(epochs, values, **style)


def _draw_miou(axis: Axes, scored: Sequence[EpochRecord]) -> None:
    color, _ = STYLES[2]
    _draw_curve(axis, *_mious(scored), color=color)
    best = max(scored, key=lambda r: r.mIoU)
    axis.plot(best.epoch, best.mIoU, "o", color="black", markersize=3, markeredgewidth=0)
    _note(axis, f"best {best.mIoU:.4f} (epoch {best.epoch})")
    _finish_miou_axis(axis, best.mIoU)


def _finish_miou_axis(axis: Axes, best: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_ylim(0, 1.08 * best if best > 0 else 1)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axis.set_ylabel("mIoU")
    axis.grid(True)


def _note(axis: Axes, text: str) -> None:
    """A few words above the right end of a panel, where no curve can run into them."""
    axis.set_title(text, loc="right", fontsize=7, pad=2.5)


def _finish_loss_axis(axis: Axes, histories: Collection[Sequence[EpochRecord]], log: bool) -> None:
    """Scale, limits and ticks that suit the finite losses, be they one value or three decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    losses = np.concatenate([_losses(records)[1] for records in histories])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    axis.set_ylabel("Loss (log scale)" if log else "Loss")
    axis.grid(True)
    if not len(losses):
        axis.text(0.5, 0.5, "no finite loss", transform=axis.transAxes, ha="center", va="center")
        axis.set_yticks([])
        return
    low, high = losses.min(), losses.max()
    if not log:
        axis.set_ylim(0, 1.06 * high)
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        return
    axis.set_yscale("log", nonpositive="mask")
    margin = (high / low) ** 0.06 if high > 1.1 * low else 1.25
    axis.set_ylim(low / margin, high * margin)
    decades = math.log10(high / low)
    # 0.02, 0.05, 0.1 rather than 10^-1: half the readers' question is "how low does it get".
    if decades > 2.5:
        axis.yaxis.set_major_locator(LogLocator(numticks=6))
    elif decades > 0.8:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _finish_epoch_axis(axes: Sequence[Axes], histories: Collection[Sequence[EpochRecord]]) -> None:
    """Whole epochs on the shared x axis, the first and the last one clear of the frame."""
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for records in histories for record in records]
    first, last = min(epochs), max(epochs)
    margin = max(0.02 * (last - first), 0.25)
    axes[-1].set_xlim(first - margin, last + margin)
    axes[-1].xaxis.set_major_locator(
        MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes[-1].set_xlabel("Epoch")
    axes[0].figure.align_ylabels(axes)
