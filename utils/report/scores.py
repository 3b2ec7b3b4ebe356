"""Scores as people read them: a report of one model, a table of several, a line per image."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.io import savemat

from evaluation import THRESHOLD, Evaluator
from evaluation.evaluator import ImageCounts
from utils.files import atomic_path, write_text
from utils.paths import Paths
from utils.report.page import Block, Table, to_markdown
from utils.report.reference import (
    REFERENCE,
    REFERENCE_DATASET,
    REFERENCE_EPOCH,
    REFERENCE_NOTE,
    Reference,
)

# Key of `Evaluator.compute()` -> heading.
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
HIOU_NOTES = ["strict hIoU = localisation x segmentation.", *(
    f"{factor}: over {over}; it and what stands below it sum to 1."
    for factor, (over, _) in HIOU_ERRORS.items())]

THIS_RUN = "this run"
NOT_TRAINED = "not trained"


@dataclass(frozen=True)
class ModelScores:
    """The scores of a model, and the meta data of its checkpoint."""

    evaluator: Evaluator
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> str:
        """The epoch of the weights, "3 of 400"; "" if the checkpoint does not say."""
        meta = self.meta
        return f"{len(meta['history'])} of {meta['recipe']['epochs']}" if meta else ""

    @cached_property
    def scores(self) -> dict:
        """`Evaluator.compute`."""
        return self.evaluator.compute()

    def counts(self) -> str:
        """How much was scored."""
        counts = self.evaluator.counts()
        return (f"{counts['images']} images ({counts['images_without_target']} without a target), "
                f"{counts['targets']} targets, {counts['pixels']} pixels; threshold "
                f"{self.evaluator.threshold:g}")


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
        pairs = ((None if key == NOT_COMPARABLE else model.scores[key],
                  model.scores["strict"].get(key)) for model in models.values())
        rows.append([heading, *(format_score(key, value, 6) for pair in pairs for value in pair),
                     over[key]])
    parts = [model.evaluator.error_analysis() for model in models.values()]
    hiou = [["", *models]]
    for factor, (_, errors) in HIOU_ERRORS.items():
        for key, name in {"IoU": factor, **errors}.items():
            hiou.append([name, *(f"{part[factor][key]:.4f}" for part in parts)])
    return [Table(rows, {"": 1, **dict.fromkeys(models, 2), " ": 1}),
            "What the strict hIoU lacks", Table(hiou), HIOU_NOTES]


def save_report(
    output_dir: str | Path,
    dataset_name: str,
    model_name: str,
    names: Sequence[str],
    model: ModelScores,
    source: str,
) -> tuple[str, Path, Path, Path]:
    """Writes all scores of one model.

    Args:
        names: of the evaluator's images.
        source: what was scored (`describe_predictions`).

    Returns:
        The report's text, its path, the .mat file with `tpr` and `fpr`, and the .csv with a line
        per image.
    """
    paths, key = Paths(output_dir), (dataset_name, model_name)
    report = to_markdown([(f"{model_name} on {dataset_name}, test list", [
        [*source.splitlines(), model.counts()], *all_scores({model_name: model}),
        [COMPARABLE, STRICT, AUC]])])
    text_path = paths.report(*key, time.strftime("%Y-%m-%d_%H-%M-%S"))
    write_text(text_path, report)
    roc_path = paths.roc(*key)
    fpr, tpr = model.evaluator.roc()
    with atomic_path(roc_path) as temporary:
        savemat(temporary, {"tpr": tpr, "fpr": fpr})
    return report, text_path, roc_path, save_per_image(paths.per_image(*key), names,
                                                       model.evaluator)


def save_tables(
    output_dir: str | Path,
    dataset_name: str,
    models: Mapping[str, ModelScores | None],
    trained: bool = True,
) -> tuple[str, Path, Path]:
    """Writes the scores of several models as Markdown and CSV.

    Args:
        models: by name, all scored on one test list; None: not trained.
        trained: the models are those trained here, and stand beside the reference.

    Returns:
        The Markdown, and the paths of the two files.
    """
    heading = (f"Models trained on {dataset_name}, beside the reference" if trained
               else f"Models on {dataset_name}")
    markdown_path, csv_path = Paths(output_dir).table(dataset_name, trained)
    markdown = to_markdown([(heading, comparison(dataset_name, models, trained))])
    write_text(markdown_path, markdown)
    save_csv(csv_path, dataset_name, models, trained)
    return markdown, markdown_path, csv_path


def comparison(
    dataset_name: str, models: Mapping[str, ModelScores | None], trained: bool = True
) -> list[Block]:
    """A table of several models and its notes; arguments of `save_tables`."""
    headings = [HEADINGS[key] for key in TABLE]
    headings += [f"strict {HEADINGS[key]}" for key in STRICT_TABLE]
    rows = [["model", *(("source", "epoch") if trained else ()), *headings]]
    for name, model in models.items():
        if model is None:
            rows.append([name, NOT_TRAINED, *["-"] * (len(headings) + 1)])
        else:
            cells = [format_score(key, model.scores[key]) for key in TABLE]
            cells += [format_score(key, model.scores["strict"][key]) for key in STRICT_TABLE]
            rows.append([name, *((THIS_RUN, model.epoch or "-") if trained else ()), *cells])
        for reference in _references(name) if trained else ():
            cells = [format_score(key, getattr(reference, key)) for key in TABLE]
            rows.append([name, f"reference {reference.framework}", REFERENCE_EPOCH, *cells,
                         *["-"] * len(STRICT_TABLE)])
    notes = [f"{dataset_name} test list, {next(filter(None, models.values())).counts()}."]
    if trained:
        notes += [f"{THIS_RUN}: the weights of the epoch named, the best by mIoU if there is a "
                  "best.npz, else the last.",
                  f"reference: {REFERENCE_NOTE}; not measured here, comparable only with training "
                  "of that length on that dataset."]
    return [Table(rows, marked=THIS_RUN), [*notes, f"Columns without strict are {COMPARABLE}",
                                           STRICT]]


def save_csv(
    path: Path, dataset_name: str, models: Mapping[str, ModelScores | None], trained: bool
) -> None:
    """Writes every score of several models at full precision, and the counts."""
    strict = [key for key in HEADINGS if key != NOT_STRICT]
    columns = ["model", "source", "dataset", "epoch", *HEADINGS, *(f"strict_{k}" for k in strict)]
    columns += ["threshold", "images", "images_without_target", "targets", "pixels"]
    rows = []
    for name, model in models.items():
        row = {"model": name, "source": NOT_TRAINED, "dataset": dataset_name}
        if model is not None:
            row.update(source=THIS_RUN, epoch=model.epoch, threshold=model.evaluator.threshold,
                       **model.evaluator.counts())
            row.update({key: model.scores[key] for key in HEADINGS})
            row.update({f"strict_{key}": model.scores["strict"][key] for key in strict})
        rows.append(row)
        for reference in _references(name) if trained else ():
            rows.append({"model": name, "source": f"reference {reference.framework}",
                         "dataset": REFERENCE_DATASET, "epoch": REFERENCE_EPOCH,
                         **{key: getattr(reference, key) for key in TABLE}})
    _write_csv(path, [columns, *([row.get(key, "") for key in columns] for row in rows)])


def save_per_image(path: Path, names: Sequence[str], evaluator: Evaluator) -> Path:
    """Writes a line per image, the worst first, in the strict definitions."""
    rows = [["name", "IoU", "targets", "hits", "misses", "false_regions", "false_pixels",
             "threshold"]]
    for index in worst_first(evaluator.images):
        image = evaluator.images[index]
        targets, hits, regions, false_pixels = image.strict
        rows.append([names[index], f"{image.iou:.6f}", targets, hits, targets - hits,
                     regions - hits, false_pixels, evaluator.threshold])
    _write_csv(path, rows)
    return path


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


def _references(model: str) -> list[Reference]:
    return [reference for reference in REFERENCE if reference.model == model]


def _write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    with atomic_path(path) as temporary, open(
        temporary, "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
