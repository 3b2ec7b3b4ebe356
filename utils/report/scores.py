"""Scores as people read them: a report of one model, a table of several, a line per image."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from evaluation import THRESHOLD, Evaluator, operating
from evaluation.evaluator import ImageCounts
from evaluation.sizes import BINS
from utils.checkpoint.pretrained import FA_HEADINGS
from utils.datasets import ImageList
from utils.errors import UserError, listed
from utils.files import atomic_path, write_text
from utils.paths import Paths
from utils.predict.prediction_files import (
    Predictions,
    check_scale,
    find_predictions,
    read_prediction,
)
from utils.report.page import Block, Table, to_markdown
from utils.report.reference import REFERENCE_EPOCH, REFERENCE_NOTE, references

# Key of `Evaluator.compute()` → heading.
HEADINGS = {
    "mIoU": "mIoU", "nIoU": "nIoU", "pixAcc": "pixAcc", "fscore": "F-score",
    "precision": "precision", "recall": "recall", "Pd": "Pd", "Fa": "Fa", "AUC": "AUC",
    "hIoU": "hIoU",
}
TABLE = ("mIoU", "fscore", "Pd", "Fa")
STRICT_TABLE = ("nIoU", "fscore", "Pd", "Fa", "hIoU")
NOT_STRICT = "pixAcc"  # it is the strict recall
NOT_COMPARABLE = "nIoU"  # the official code has none

COMPARABLE = (
    f"comparable: as the official code of L2SKNet computes it (published numbers: at {THRESHOLD}). "
    "mIoU and pixAcc are at the threshold, the others after dividing each map by its maximum; "
    "targets are matched in order; a false region that has the area of a matched region is not "
    "counted in Fa; hIoU is at the threshold, as the package pyirstdmetrics computes it."
)
STRICT = (
    "strict: all at the threshold itself, targets and regions matched optimally, every unmatched "
    "region counted in Fa."
)
AUC = "AUC: of targets hit against background pixels lit, at 201 thresholds."
SIZE_SCORES = ("Pd", "IoU")
SIZE_NOTE = (
    "targets by size: strict, at the threshold. The sizes end at squares of 3, 5 and 9 pixels. IoU "
    "is the mean over the targets of the IoU with the matched region, 0 for a missed target."
)
FA_NOTES = [
    "threshold: the smallest whose strict Fa on this list is at most the wanted Fa, of "
    f"{len(operating.GRID)} thresholds from {operating.GRID[0]:f} to {operating.GRID[-1]:f}, "
    "without those below the first at which mIoU is half of its best. They are closest to each "
    "other near 0 and 1.",
    f"{operating.PERCENTILES[0]} % to {operating.PERCENTILES[1]} %: percentiles of that threshold "
    f"over {operating.RESAMPLES} sets of as many images drawn from this list with replacement; "
    "none: no threshold is high enough.",
]
THIS_RUN, NOT_TRAINED = "this run", "not trained"
TRAINED_NOTE = (f"{THIS_RUN}: the weights of the epoch named, the best by mIoU if there is a "
                "best.npz, else the last.")
# The factors of hIoU: over what they are, and the names of what they lack (`error_analysis`).
HIOU_ERRORS = {
    "localisation": (
        "pairs, missed targets and false regions",
        {"perception": "missed targets", "interference": "false regions",
         "s2m": "targets under another's region", "m2s": "regions on another's target"},
    ),
    "segmentation": (
        "the union of a pair, mean of the pairs",
        {"perception": "missed pixels", "interference": "background", "merging": "other targets"},
    ),
}


@dataclass(frozen=True)
class ModelScores:
    """The scores of a model.

    Attributes:
        evaluator: its `images` are in the order of the list that was scored.
        meta: what the checkpoint says, if it was trained here.
        predictions: what was scored.
    """

    evaluator: Evaluator
    meta: Mapping[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None

    @property
    def epoch(self) -> str:
        """The epoch of the weights, "3 of 400"; "" if the checkpoint does not say."""
        history, recipe = self.meta.get("history"), self.meta.get("recipe")
        return f"{len(history)} of {recipe['epochs']}" if history and recipe else ""

    @cached_property
    def scores(self) -> dict[str, float]:
        """All scores by name, the strict ones as `strict_<name>`."""
        scores = self.evaluator.compute()
        strict = scores.pop("strict")
        return {**scores, **{f"strict_{key}": value for key, value in strict.items()}}

    def counts(self) -> str:
        """How much was scored."""
        counts = self.evaluator.counts()
        return (f"{counts['images']} images ({counts['images_without_target']} without a target), "
                f"{counts['targets']} targets, {counts['pixels']} pixels; threshold "
                f"{self.evaluator.threshold:g}")


def score_predictions(
    split: ImageList, folder: str | Path, threshold: float = THRESHOLD,
    meta: Mapping[str, Any] | None = None,
) -> ModelScores:
    """Scores the predictions of a model, ours or anyone's, for the names of a split.

    Args:
        split: names and masks to score against.
        folder: holds NAME.mat, .npy or .png for each name.
        threshold: of `Evaluator`.
        meta: of `ModelScores`.

    Raises:
        UserError: predictions are missing, or cannot be used; it names them.
    """
    predictions = find_predictions(split.names, folder, [*split.names, *split.skipped])
    evaluator, problems, top = Evaluator(threshold, operating.GRID), [], 0
    pairs = zip(split.names, split.masks)
    for name, mask in tqdm(pairs, "scoring", len(split), unit="image", leave=False, disable=None):
        try:
            prediction = read_prediction(predictions.files[name])
            evaluator.update(prediction, mask)
            top = max(top, prediction.max())
        except UserError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{predictions.files[name]}: {error}; save probabilities, 0 to 1, "
                            "at the size of the image")
    if problems:
        raise UserError(listed(problems, 1, "; ", "files that cannot be used"))
    check_scale(top, folder)
    return ModelScores(evaluator, meta or {}, predictions)


def format_score(key: str, value: float | None, digits: int = 4) -> str:
    """A score as it is printed; "-" for None."""
    if value is None:
        return "-"
    # False alarms are a few pixels in a million.
    return f"{value:.2e}" if key == "Fa" else f"{value:.{digits}f}"


def all_scores(models: Mapping[str, ModelScores]) -> list[Block]:
    """Tables of every score in both definitions, and of what hIoU lacks."""
    counts = next(iter(models.values())).evaluator.counts()
    pixels, targets = f"{counts['pixels']} pixels", f"{counts['targets']} targets"
    over = {**dict.fromkeys(HEADINGS, pixels), "nIoU": f"{counts['images']} images",
            "Pd": targets, "AUC": f"{targets}, background pixels",
            "hIoU": f"{targets}, detected regions"}
    rows = [["", *(["comparable", "strict"] * len(models)), "over"]]
    for key, heading in HEADINGS.items():
        values = (None if name == NOT_COMPARABLE else model.scores.get(name)
                  for model in models.values() for name in (key, f"strict_{key}"))
        rows.append([heading, *(format_score(key, value, 6) for value in values), over[key]])
    parts = [model.evaluator.error_analysis() for model in models.values()]
    hiou, notes = [["", *models]], ["strict hIoU = localisation x segmentation."]
    for factor, (whole, errors) in HIOU_ERRORS.items():
        notes.append(f"{factor}: fractions of {whole}. {factor} and the rows below it add up to 1.")
        for key, name in {"IoU": factor, **errors}.items():
            hiou.append([name, *(f"{part[factor][key]:.4f}" for part in parts)])
    return [Table(rows, {"": 1, **dict.fromkeys(models, 2), " ": 1}),
            "What the strict hIoU lacks", Table(hiou), notes]


def save_report(
    output_dir: str | Path, split: ImageList, model_name: str, model: ModelScores,
    wanted: Sequence[float] = (), by_size: bool = False,
) -> tuple[str, list[Path]]:
    """Writes all scores of one model, its curves and a line per image.

    Args:
        wanted: rates of false alarms, whose thresholds the report gives.
        by_size: True adds the table of targets by size.

    Returns:
        The report's text, and the files: the text, a .mat with `tpr` and `fpr`, a .csv per image,
        and a .csv with Pd, Fa and mIoU at each threshold of the evaluator's grid.
    """
    paths, key = Paths(output_dir), (split.dataset, model_name)
    report = to_markdown([(f"{model_name} on {split.dataset}, test list", [
        [*model.predictions.describe(split.name).splitlines(), model.counts(),
         *split.left_out()],
        *all_scores({model_name: model}), [COMPARABLE, STRICT, AUC],
        *(size_table({model_name: model}) if by_size else []),
        *(fa_thresholds(model.evaluator, wanted) if wanted else [])])])
    written = [paths.report(*key, time.strftime("%Y-%m-%d_%H-%M-%S")), paths.roc(*key),
               paths.per_image(*key), paths.pd_fa(*key)]
    write_text(written[0], report)
    fpr, tpr = model.evaluator.roc()
    with atomic_path(written[1]) as temporary:
        savemat(temporary, {"tpr": tpr, "fpr": fpr})
    _write_csv(written[2], per_image(split.names, model.evaluator))
    sweep = model.evaluator.sweep()
    _write_csv(written[3], (dict(zip(("threshold", "Pd", "Fa", "mIoU"), map(float, values)))
                            for values in zip(*sweep)))
    return report, written


def size_table(models: Mapping[str, ModelScores]) -> list[Block]:
    """A table of Pd and IoU of targets by their size, a row per size."""
    tables = {name: model.evaluator.by_size() for name, model in models.items()}
    heads = [f"{name}: {key}" if len(models) > 1 else key for name in models for key in SIZE_SCORES]
    rows = [["area, pixels", "targets", *heads]]
    for area, first in next(iter(tables.values())).items():
        values = [table[area][key] for table in tables.values() for key in SIZE_SCORES]
        rows.append([area, f"{first['targets']}",
                     *(f"{value:.4f}" if first["targets"] else "-" for value in values)])
    return ["Targets by size", Table(rows), [SIZE_NOTE]]


def fa_thresholds(evaluator: Evaluator, wanted: Iterable[float]) -> list[Block]:
    """A table of the thresholds for wanted rates of false alarms, the highest rate first."""
    rows, notes = [FA_HEADINGS], []
    sweep = evaluator.sweep()
    for rate in sorted(set(wanted), reverse=True):
        step, spread = evaluator.threshold_for(rate)
        moves = " to ".join(f"{end:g}" if np.isfinite(end) else "none" for end in spread)
        at, scores = "none", ["-"] * 3
        if step is None:
            lowest = sweep.fa.argmin()
            notes.append(f"{rate:g}: not reached; the lowest Fa is {sweep.fa[lowest]:.2e}, at "
                         f"threshold {sweep.thresholds[lowest]:g}.")
        else:
            at, scores = f"{sweep.thresholds[step]:g}", [
                f"{sweep.fa[step]:.2e}", f"{sweep.pd[step]:.4f}", f"{sweep.iou[step]:.4f}"]
        rows.append([f"{rate:g}", at, *scores, moves])
    return ["Thresholds for a wanted Fa", Table(rows), [*notes, *FA_NOTES]]


def per_image(names: Sequence[str], evaluator: Evaluator) -> Iterator[dict[str, Any]]:
    """Yields the counts of each image in the strict definitions, the worst image first."""
    for index in worst_first(evaluator.images):
        image = evaluator.images[index]
        targets, hits, regions, false_pixels = image.strict
        yield {"name": names[index], "IoU": f"{image.iou:.6f}", "targets": targets, "hits": hits,
               "misses": targets - hits, "false_regions": regions - hits,
               "false_pixels": false_pixels, "threshold": evaluator.threshold}


def save_tables(
    output_dir: str | Path, dataset_name: str, models: Mapping[str, ModelScores | None],
    trained: bool = True, by_size: bool = False,
) -> tuple[str, list[Path]]:
    """Writes the scores of several models as Markdown and, at full precision, as CSV.

    Args:
        models: by name, all scored on one test list; None: not trained.
        trained: the models are those trained here, and stand beside the reference if it has rows
            of this dataset.
        by_size: True adds a table, and columns to the CSV, of targets by size.

    Returns:
        The Markdown, and the paths of the two files.
    """
    heading = f"Models trained on {dataset_name}" if trained else f"Models on {dataset_name}"
    if trained and references(dataset_name):
        heading += ", beside the reference"
    markdown_path, csv_path = Paths(output_dir).table(dataset_name, trained)
    scored = {name: model for name, model in models.items() if model}
    markdown = to_markdown([(heading, [*comparison(dataset_name, models, trained),
                                       *(size_table(scored) if by_size else [])])])
    write_text(markdown_path, markdown)
    rows = list(_rows(dataset_name, models, trained))
    _write_csv(csv_path, rows, dict.fromkeys(
        ["model", "source", "dataset", "epoch", *HEADINGS,
         *(f"strict_{key}" for key in HEADINGS if key != NOT_STRICT),
         "threshold", "images", "images_without_target", "targets", "pixels",
         *(f"{key}_{area}" for area in BINS for key in ("targets", *SIZE_SCORES) if by_size)]))
    return markdown, [markdown_path, csv_path]


def comparison(
    dataset_name: str, models: Mapping[str, ModelScores | None], trained: bool = True
) -> list[Block]:
    """A table of several models and its notes; arguments of `save_tables`."""
    words = ["model", "source", "epoch"] if trained else ["model"]
    scores = [("", key) for key in TABLE] + [("strict_", key) for key in STRICT_TABLE]
    rows = [[*words, *(f"{kind}{HEADINGS[key]}".replace("_", " ") for kind, key in scores)]]
    for row in _rows(dataset_name, models, trained):
        rows.append([*(row.get(word) or "-" for word in words),
                     *(format_score(key, row.get(kind + key)) for kind, key in scores)])
    return [Table(rows, marked=THIS_RUN),
            [f"{dataset_name} test list, {next(filter(None, models.values())).counts()}.",
             *([TRAINED_NOTE] if trained else []),
             *([REFERENCE_NOTE] if trained and references(dataset_name) else []),
             f"Columns without strict are {COMPARABLE}", STRICT]]


def _rows(
    dataset_name: str, models: Mapping[str, ModelScores | None], trained: bool
) -> Iterator[dict[str, Any]]:
    """Yields a row per model, and after it what the reference has of it on this dataset."""
    for name, model in models.items():
        row = {"model": name, "source": NOT_TRAINED, "dataset": dataset_name}
        if model is not None:
            row.update(model.scores, source=THIS_RUN, epoch=model.epoch,
                       threshold=model.evaluator.threshold, **model.evaluator.counts())
            row.update((f"{key}_{area}", value) for area, values in
                       model.evaluator.by_size().items() for key, value in values.items())
        yield row
        for reference in references(dataset_name) if trained else ():
            if reference.model == name:
                yield {**reference._asdict(), "source": f"reference {reference.framework}",
                       "dataset": dataset_name, "epoch": REFERENCE_EPOCH}


def worst_first(images: Sequence[ImageCounts]) -> list[int]:
    """Indices of images: the lowest IoU first, then most misses, then most false pixels."""
    keys = [(image.iou, image.strict.detected - image.strict.targets, -image.strict.false_pixels)
            for image in images]
    return sorted(range(len(images)), key=keys.__getitem__)


def describe_image(name: str, image: ImageCounts) -> str:
    """The line of an image in words."""
    targets, hits, regions, false_pixels = image.strict
    return (f"{name}: IoU {image.iou:.3f}, targets hit: {hits} of {targets}, "
            f"false regions: {regions - hits} (pixels: {false_pixels})")


def _write_csv(path: Path, rows: Iterable[Mapping], columns: Iterable[str] | None = None) -> None:
    rows, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, list(columns or rows[0]), extrasaction="ignore",
                            lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
