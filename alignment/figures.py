"""The figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alignment.bounds import FACTORS
from utils.report.curves import FULL_WIDTH, STYLES, epochs_axis, legend_above, stacked_panels

SIDES = {"jittor": "Jittor (ours)", "pytorch": "PyTorch"}


def save_stages(path: Path, rows: Sequence[Mapping], title: str) -> None:
    """Draws distances from the truth, a panel per kind: the batches' median, above it the worst.

    Args:
        rows: of `bounds.judge`.
    """
    in_order = sorted(rows, key=lambda row: row["kind"] != "gradients")  # they have all but EXTRA
    stages = list(dict.fromkeys(row["stage"] for row in in_order))
    with stacked_panels(path, len(FACTORS), 1.15, legend_rows=8, width=FULL_WIDTH) as axes:
        from matplotlib.ticker import NullFormatter

        for axis, kind in zip(axes, FACTORS):
            chosen = [row for row in rows if row["kind"] == kind]
            for index, (side, label) in enumerate(SIDES.items()):
                color = STYLES[index]["color"]
                places = [stages.index(row["stage"]) + 0.24 * index - 0.12 for row in chosen]
                values = np.array([row[side] for row in chosen])
                worst = [row["worst"][index] for row in chosen]
                axis.vlines(places, np.where(values > 0, values, worst), worst, color,
                            linewidth=0.6)
                axis.plot(places, np.where(values > 0, values, np.nan), "ox"[index], color=color,
                          label=label, markersize=3.5, fillstyle="none", markeredgewidth=1)
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())  # they would lie on each other
            axis.set_ylabel(kind)
        axes[-1].set_xticks(range(len(stages)), stages, rotation=90)
        axes[-1].set_xlim(-0.7, len(stages) - 0.3)
        legend_above(axes, f"{title}: distance from the float64 truth, relative; median and worst "
                     "of the batches")


def save_curves(
    path: Path, x: Sequence[int], xlabel: str, panels: Sequence[tuple], title: str
) -> None:
    """Draws curves of both frameworks over each other.

    Args:
        panels: (what, label → values, scale of the axis, a bound to draw or None).
    """
    with stacked_panels(path, len(panels), 1.4, legend_rows=1) as axes:
        for axis, (what, curves, scale, bound) in zip(axes, panels):
            for (label, values), style in zip(curves.items(), STYLES):
                axis.plot(x, values, **style, label=label, marker="o")
            if bound:
                axis.axhline(bound, color="#888888", linewidth=0.6)
            axis.set_yscale(scale)
            axis.set_ylabel(what)
        epochs_axis(axes, x, xlabel)
        legend_above(axes, title)
