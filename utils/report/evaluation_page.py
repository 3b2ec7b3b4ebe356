"""The page of an evaluation: tables, figures, configuration and versions."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation import Evaluator
from utils import environment
from utils.checkpoint.weights import read_meta
from utils.datasets import ImageList
from utils.files import write_text
from utils.paths import LAST, Paths
from utils.report.curves import save_comparison, save_loss_curve
from utils.report.html import (
    html_figure,
    html_notes,
    html_page,
    html_section,
    html_table,
    html_values,
)
from utils.report.tables import (
    HIOU_ERRORS,
    STRICT_TABLE,
    TABLE,
    THIS_RUN,
    Result,
    comparison_notes,
    comparison_table,
    error_table,
    score_rows,
)
from utils.training.logs import EpochRecord

PACKAGES = ("jittor", "numpy", "scipy", "scikit-image", "pillow", "matplotlib")

CURVES_CAPTION = (
    "Comparable definitions: each map divided by its maximum, 201 thresholds. Targets are hit by "
    "any pixel; the false-alarm rate is over background pixels. Dots: the threshold of the tables."
)
PREDICTIONS_CAPTION = (
    "Images evenly chosen from the test list. Circles as in the strict definitions; the inset "
    "shows the largest target."
)
WORST_NOTE = (
    "Lowest IoU first, then most missed targets and false pixels; strict definitions. Every image "
    "has its line in result/…_per_image.csv. The inset shows the largest region that is wrong."
)


@dataclass(frozen=True)
class Evaluation:
    """What the page tells of.

    Attributes:
        split: The images that were predicted.
        results: Model name -> its result, None: not trained.
        weights: Model name -> the file of its weights.
        command: The command line that made it.
        device: What the networks ran on (`Runtime.describe`).
    """

    split: ImageList
    results: Mapping[str, Result | None]
    weights: Mapping[str, Path | None]
    command: str
    device: str

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """Those of the models that were scored."""
        return {model: result.evaluator for model, result in self.results.items() if result}


def save_page(
    output_dir: str | Path,
    evaluation: Evaluation,
    curves: Path,
    side_by_side: Path,
    worst: Mapping[str, Sequence[Path]],
) -> Path:
    """Writes the page, with copies of the pictures in it.

    Args:
        curves: the .png of `save_score_curves`.
        side_by_side: the .png of `save_qualitative`.
        worst: model name -> pictures of `save_worst`.

    Returns:
        Its path.
    """
    dataset_name = evaluation.split.dataset
    metas = {model: result.meta for model, result in evaluation.results.items() if result}
    with tempfile.TemporaryDirectory() as temporary:
        training = _training_figures(output_dir, dataset_name, metas, Path(temporary))
        body = [
            *_head(evaluation),
            _scores(evaluation),
            _figures("ROC and precision-recall", {curves: CURVES_CAPTION}),
            _figures("Training", training),
            _figures("Predictions", {side_by_side: PREDICTIONS_CAPTION}),
            _worst_images(worst),
            _all_scores(evaluation.evaluators),
            _configuration(evaluation),
        ]
    path = Paths(output_dir).page(dataset_name)
    write_text(path, html_page(f"Evaluation on {dataset_name}", [part for part in body if part]))
    return path


def _training_figures(
    output_dir: str | Path, dataset_name: str, metas: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[Path, str]:
    """Draws loss and mIoU over the epochs, for the models whose checkpoints tell of them.

    Returns:
        The pictures and their captions.
    """
    histories = {}
    for model, meta in metas.items():
        last = Paths(output_dir).checkpoints(dataset_name, model) / LAST
        records = (read_meta(last) if last.is_file() else meta).get("history", ())
        if records:
            histories[model] = [EpochRecord(**record) for record in records]
    figures = {}
    if len(histories) > 1:
        save_comparison(folder / "all.png", histories, dataset_name)
        figures[folder / "all.png"] = "Training loss of all models"
    for model, records in histories.items():
        save_loss_curve(folder / f"{model}.png", records, model)
        figures[folder / f"{model}.png"] = ""
    return figures


def _head(evaluation: Evaluation) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M")
    lines = f"{when}. {evaluation.split.describe()}", evaluation.device
    return [f"<h1>Evaluation on {escape(evaluation.split.dataset)}</h1>",
            *(f'<p class="lead">{escape(line)}</p>' for line in lines)]


def _scores(evaluation: Evaluation) -> str:
    rows = comparison_table(evaluation.results)
    first = len(rows[0]) - len(TABLE) - len(STRICT_TABLE)
    groups = {"": first, "comparable": len(TABLE), "strict": len(STRICT_TABLE)}
    headings = [cell.replace("strict ", "") for cell in rows[0]]
    notes = comparison_notes(evaluation.split.dataset, evaluation.results)
    return html_section("Scores", html_table([headings, *rows[1:]], groups, marked=THIS_RUN),
                        html_notes(notes))


def _figures(heading: str, pictures: Mapping[Path, str]) -> str:
    """A section of pictures and their captions; empty without any."""
    if not pictures:
        return ""
    content = "".join(html_figure(path, caption) for path, caption in pictures.items())
    if len(pictures) > 1:
        content = f'<div class="pair">{content}</div>'
    return html_section(heading, content)


def _worst_images(worst: Mapping[str, Sequence[Path]]) -> str:
    content = []
    for model, pictures in worst.items():
        shown = "".join(html_figure(path) for path in pictures)
        content.append(f'<h3>{escape(model)}</h3><div class="pair wide">{shown}</div>')
    return html_section("Worst images", f'<p class="notes">{WORST_NOTE}</p>', *content)


def _all_scores(evaluators: Mapping[str, Evaluator]) -> str:
    """Scores down, models across, and at the end over what they are: the same for all."""
    tables = [score_rows(evaluator) for evaluator in evaluators.values()]
    rows = [
        [lines[0][0], *(cell for line in lines for cell in line[1:-1]), lines[0][-1]]
        for lines in zip(*tables)
    ]
    notes = [f"{factor}: over {over}; IoU and what it is lost to sum to 1."
             for factor, (over, _) in HIOU_ERRORS.items()]
    return html_section(
        "All scores",
        html_table(rows, {"": 1, **dict.fromkeys(evaluators, 2), " ": 1}),
        "<h3>What hIoU lacks</h3>",
        html_table(error_table(evaluators)),
        html_notes([*notes, "strict hIoU = localisation x segmentation."]),
    )


def _configuration(evaluation: Evaluation) -> str:
    blocks = {
        model: {
            "weights": evaluation.weights[model],
            "epoch": result.epoch or "unknown",
            "training started": result.meta.get("started", "unknown"),
            **result.meta.get("recipe", {}),
            "threshold": result.evaluator.threshold,
        }
        for model, result in evaluation.results.items() if result
    }
    content = "".join(map(html_values, [*blocks, "Versions"], [*blocks.values(), versions()]))
    return html_section("Configuration",
                        f"<pre><code>{escape(evaluation.command)}</code></pre>",
                        f'<div class="pair wide">{content}</div>')


def versions() -> dict[str, str]:
    """Python, packages, system, and the state of this project if it is a git checkout."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["system"] = platform.platform()
    commit = environment.commit()
    return {**found, "this project": commit} if commit else found
