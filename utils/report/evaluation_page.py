"""The page of an evaluation: tables, figures, configuration and versions."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from utils import environment
from utils.datasets import ImageList
from utils.files import write_text
from utils.paths import Paths
from utils.report.curves import save_curves
from utils.report.page import Block, Figures, Table, to_html
from utils.report.scores import ModelScores, all_scores, comparison
from utils.training.logs import EpochRecord
from utils.training.store import last_run

PACKAGES = ("jittor", "numpy", "scipy", "scikit-image", "pillow", "matplotlib")

CURVES_CAPTION = (
    "Comparable definitions: each map divided by its maximum, 201 thresholds. Targets are hit by "
    "any pixel; the false-alarm rate is over background pixels. Pd against Fa: strict definitions, "
    "the maps as they are, 101 thresholds. Dots: the threshold of the tables."
)
PREDICTIONS_CAPTION = (
    "Images evenly chosen from the test list. Circles as in the strict definitions; the inset "
    "shows the largest target."
)
WORST_NOTE = (
    "Lowest IoU first, then most missed targets and false pixels; strict definitions. Every image "
    "has its line in result/…_per_image.csv. The inset shows the object with the most wrong pixels."
)


def save_page(
    output_dir: str | Path, split: ImageList, models: Mapping[str, ModelScores | None],
    weights: Mapping[str, Path | None], run: Sequence[str], curves: Path, side_by_side: Path,
    worst: Mapping[str, Sequence[Path]],
) -> Path:
    """Writes the page, with copies of the pictures in it.

    Args:
        split: the images that were predicted.
        models: by name; None: not trained.
        weights: model name → file of weights; None: not trained.
        run: lines that describe how the page was made.
        curves: the .png of `save_score_curves`.
        side_by_side: the .png of `detection_figure`.
        worst: model name → pictures of `save_worst`.

    Returns:
        The path of the page.
    """
    scored = {name: model for name, model in models.items() if model}
    pictures = [block for name, paths in worst.items() if paths
                for block in (name, Figures(dict.fromkeys(paths, "")))]
    with tempfile.TemporaryDirectory() as temporary:
        training = _training_figures(output_dir, split.dataset, scored, Path(temporary))
        page = to_html([
            (f"Evaluation on {split.dataset}",
             [[time.strftime("%Y-%m-%d %H:%M"), split.describe(), *run]]),
            ("Scores", comparison(split.dataset, models)),
            ("ROC, precision-recall, Pd against Fa", [Figures({curves: CURVES_CAPTION})]),
            *([("Training", [Figures(training)])] if training else []),
            ("Predictions", [Figures({side_by_side: PREDICTIONS_CAPTION})]),
            *([("Worst images", [[WORST_NOTE], *pictures])] if pictures else []),
            ("All scores", all_scores(scored)),
            ("Configuration", _configuration(scored, weights)),
        ])
    path = Paths(output_dir).page(split.dataset)
    write_text(path, page)
    return path


def _training_figures(
    output_dir: str | Path, dataset_name: str, models: Mapping[str, ModelScores], folder: Path
) -> dict[Path, str]:
    """Loss and mIoU over the epochs, of the models whose checkpoints have a history."""
    histories = {}
    for name, model in models.items():
        # Of the last checkpoint, or the one before if that is damaged, or of the weights scored.
        newest = last_run(output_dir, dataset_name, name) or model.meta
        records = newest.get("history", ())
        if records:
            histories[name] = [EpochRecord(**record) for record in records]
    figures = {}
    if len(histories) > 1:
        save_curves(folder / "all.png", histories, dataset_name)
        figures[folder / "all.png"] = "Training of all models"
    for name, records in histories.items():
        save_curves(folder / f"{name}.png", {name: records}, name)
        figures[folder / f"{name}.png"] = ""
    return figures


def _configuration(
    models: Mapping[str, ModelScores], weights: Mapping[str, Path | None]
) -> list[Block]:
    columns = {
        name: {"weights": weights[name], "epoch": model.epoch or "unknown",
               "training started": model.meta.get("started", "unknown"),
               **model.meta.get("recipe", {}), "threshold": model.evaluator.threshold}
        for name, model in models.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(str(column.get(name, "-")) for column in columns.values())] for name in names]
    return [Table([["", *columns], *rows]),
            "Versions", Table([["", "version"], *map(list, versions().items())])]


def versions() -> dict[str, str]:
    """Python, packages, system, and the commit of this project if it is a git checkout."""
    found = {"Python": platform.python_version(), **dict.fromkeys(PACKAGES, "not installed")}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    found["system"] = platform.platform()
    commit = environment.commit()
    return {**found, "this project": commit} if commit else found
