"""Scores as people read them: a report of one model, a table of several, a line for each image.

`render_*` make the texts, `save_*` write them below --output_dir.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import fill
from typing import Any

from scipy.io import savemat

from evaluation import Evaluator
from evaluation.evaluator import ImageCounts
from utils.files import atomic_path, write_text
from utils.paths import Paths
from utils.report.reference import (
    REFERENCE,
    REFERENCE_DATASET,
    REFERENCE_EPOCH,
    REFERENCE_NOTE,
    Reference,
)

# Key of `Evaluator.compute()`, heading.
SCORES = (
    ("mIoU", "mIoU"),
    ("nIoU", "nIoU"),
    ("pixAcc", "pixAcc"),
    ("fscore", "F-score"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("Pd", "Pd"),
    ("Fa", "Fa"),
    ("AUC", "AUC"),
    ("hIoU", "hIoU"),
)
HEADINGS = dict(SCORES)
TABLE = ("mIoU", "fscore", "Pd", "Fa")
STRICT_TABLE = ("nIoU", "fscore", "Pd", "Fa", "hIoU")
NOT_STRICT = "pixAcc"  # it is the strict recall
NOT_COMPARABLE = "nIoU"  # the official code has none

COMPARABLE = (
    "as the official code of L2SKNet computes it (published numbers: at 0.5): mIoU and pixAcc at "
    "the threshold, the others after dividing each map by its maximum; targets matched in order; a "
    "false region of a matched one's area is not counted in Fa; hIoU at the threshold, as the "
    "package pyirstdmetrics computes it"
)
STRICT = (
    "all at the threshold itself, targets and regions matched optimally, every unmatched region "
    "counted in Fa"
)

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

THIS_RUN = "this run"
NOT_TRAINED = "not trained"


@dataclass(frozen=True)
class Result:
    """A scored model: its evaluator, and what its checkpoint says of its training."""

    evaluator: Evaluator
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> str:
        """Of the weights, "3 of 400"; "" where the checkpoint does not say."""
        meta = self.meta
        return f"{len(meta['history'])} of {meta['recipe']['epochs']}" if meta else ""

    @cached_property
    def scores(self) -> dict:
        """`Evaluator.compute`."""
        return self.evaluator.compute()


def format_score(key: str, value: float | None, digits: int = 4) -> str:
    """A score at the precision it is printed with; "-" for none."""
    if value is None:
        return "-"
    # False alarms are a few pixels in a million.
    return f"{value:.2e}" if key == "Fa" else f"{value:.{digits}f}"


def describe_counts(evaluator: Evaluator) -> str:
    """Over how much the scores are."""
    counts = evaluator.counts()
    return (
        f"{counts['images']} images ({counts['images_without_target']} without a target), "
        f"{counts['targets']} targets, {counts['pixels']} pixels; threshold {evaluator.threshold:g}"
    )


def score_rows(evaluator: Evaluator) -> list[list[str]]:
    """Every score in both definitions and what it is taken over, as rows of text."""
    counts, scores = evaluator.counts(), evaluator.compute()
    pixels, targets = f"{counts['pixels']} pixels", f"{counts['targets']} targets"
    over = dict.fromkeys(HEADINGS, pixels)
    over.update(
        nIoU=f"{counts['images']} images",
        Pd=targets,
        AUC=f"{targets}, background pixels",
        hIoU=f"{targets}, detected regions",
    )
    rows = [["", "comparable", "strict", "over"]]
    for key, heading in SCORES:
        comparable = None if key == NOT_COMPARABLE else scores[key]
        strict = scores["strict"].get(key)
        rows.append(
            [heading, format_score(key, comparable, 6), format_score(key, strict, 6), over[key]]
        )
    return rows


def error_lines(evaluator: Evaluator) -> list[str]:
    """The two factors of the strict hIoU, and what each lacks to 1, in words."""
    parts = evaluator.error_analysis()
    product = parts["localisation"]["IoU"] * parts["segmentation"]["IoU"]
    lines = []
    for factor, (over, errors) in HIOU_ERRORS.items():
        missing = ", ".join(f"{name} {parts[factor][key]:.4f}" for key, name in errors.items())
        lines.append(f"  {factor} {parts[factor]['IoU']:.4f} over {over}; lost to {missing}")
    pairs = sum(image.hiou.matched for image in evaluator.images)
    first = f"strict hIoU {product:.4f} = localisation x segmentation, {pairs} matched pairs:"
    return [first, *lines]


def error_table(evaluators: Mapping[str, Evaluator]) -> list[list[str]]:
    """The same for several models as rows of text, headings first."""
    columns = [
        (factor, key, name)
        for factor, (_, errors) in HIOU_ERRORS.items()
        for key, name in {"IoU": factor, **errors}.items()
    ]
    rows = [["model", *(name for *_, name in columns)]]
    for model, evaluator in evaluators.items():
        parts = evaluator.error_analysis()
        rows.append([model, *(f"{parts[factor][key]:.4f}" for factor, key, _ in columns)])
    return rows


def save_report(
    output_dir: str | Path,
    dataset_name: str,
    model_name: str,
    names: Sequence[str],
    evaluator: Evaluator,
    source: str,
) -> tuple[str, Path, Path, Path]:
    """Writes what there is to say of one model.

    Args:
        names: of the evaluator's images.
        source: what was scored (`describe_predictions`).

    Returns:
        The report's text, its path, the .mat file with `tpr` and `fpr`, and the .csv with a line
        for each image.
    """
    paths, key = Paths(output_dir), (dataset_name, model_name)
    report = render_report(dataset_name, model_name, evaluator, source)
    text_path = paths.report(*key, time.strftime("%Y-%m-%d_%H-%M-%S"))
    write_text(text_path, report)
    roc_path = paths.roc(*key)
    fpr, tpr = evaluator.roc()
    with atomic_path(roc_path) as temporary:
        savemat(temporary, {"tpr": tpr, "fpr": fpr})
    csv_path = paths.per_image(*key)
    write_text(csv_path, render_per_image(names, evaluator))
    return report, text_path, roc_path, csv_path


def render_report(dataset_name: str, model_name: str, evaluator: Evaluator, source: str) -> str:
    """All scores of one model, in both definitions.

    Args:
        source: what was scored (`describe_predictions`).
    """
    notes = [
        f"comparable  {COMPARABLE}",
        f"strict      {STRICT}",
        "over        what it is summed over (nIoU: the mean over the images); AUC: targets hit "
        "against background pixels lit, at 201 thresholds",
    ]
    return (
        f"{model_name} on {dataset_name}, test list\n{source}\n{describe_counts(evaluator)}\n\n"
        + _text_table(score_rows(evaluator))
        + "\n\n"
        + "\n".join(fill(line, 100, subsequent_indent=4 * " ") for line in error_lines(evaluator))
        + "\n\n"
        + "\n".join(fill(note, 100, subsequent_indent=12 * " ") for note in notes)
        + "\n"
    )


def save_tables(
    output_dir: str | Path,
    dataset_name: str,
    results: Mapping[str, Result | None],
    trained: bool = True,
) -> tuple[str, Path, Path]:
    """Writes the table of several models as Markdown and CSV.

    Args:
        results: model name -> its result on one and the same test list; None: not trained.
        trained: the models are those trained here, and stand beside the reference.

    Returns:
        The table for the terminal, and the paths of the two files.
    """
    title = f"Models {'trained ' if trained else ''}on {dataset_name}"
    title += ", beside the reference" if trained else ""
    table = comparison_table(results, trained)
    notes = comparison_notes(dataset_name, results, trained)
    markdown_path, csv_path = Paths(output_dir).table(dataset_name, trained)
    write_text(markdown_path, render_markdown(table, title, notes))
    write_text(csv_path, render_csv(dataset_name, results, trained))
    return render_text(table, title, notes), markdown_path, csv_path


def comparison_table(
    results: Mapping[str, Result | None], trained: bool = True
) -> list[list[str]]:
    """The scores of several models as rows of text, headings first.

    Args:
        results: model name -> result, or None for a model that is not trained.
        trained: the models are those trained here: with their epochs, beside the reference table.
    """
    headings = [HEADINGS[key] for key in TABLE]
    headings += [f"strict {HEADINGS[key]}" for key in STRICT_TABLE]
    rows = [["model", *(("source", "epoch") if trained else ()), *headings]]
    for model, result in results.items():
        if result is None:
            rows.append([model, NOT_TRAINED, *["-"] * (len(headings) + 1)])
        else:
            scores = result.scores
            cells = [format_score(key, scores[key]) for key in TABLE]
            cells += [format_score(key, scores["strict"][key]) for key in STRICT_TABLE]
            rows.append([model, *((THIS_RUN, result.epoch or "-") if trained else ()), *cells])
        for reference in _references(model) if trained else ():
            cells = [format_score(key, getattr(reference, key)) for key in TABLE]
            source = f"reference {reference.framework}"
            rows.append([model, source, REFERENCE_EPOCH, *cells, *["-"] * len(STRICT_TABLE)])
    return rows


def comparison_notes(
    dataset_name: str, results: Mapping[str, Result | None], trained: bool = True
) -> list[str]:
    """What the rows and columns of a comparison table are, a line each; arguments as there."""
    over = describe_counts(next(result for result in results.values() if result).evaluator)
    notes = [f"{dataset_name} test list, {over}."]
    if trained:
        notes[0] = (f"{THIS_RUN}: {notes[0][:-1]}; weights of the epoch named, the best by mIoU "
                    "where there is a best.npz, else the last.")
        notes.append(
            f"reference: {REFERENCE_NOTE}; not measured here, comparable only with training of "
            "that length on that dataset."
        )
    notes.append(f"strict: {STRICT}.")
    notes.append(f"other columns: comparable, {COMPARABLE}.")
    return notes


def render_text(rows: Sequence[Sequence[str]], title: str, notes: Sequence[str]) -> str:
    """A table for the terminal."""
    lines = [title, "", _text_table(rows), "", *(fill(note, 100) for note in notes)]
    return "\n".join(lines) + "\n"


def render_markdown(rows: Sequence[Sequence[str]], title: str, notes: Sequence[str]) -> str:
    """A table for a README."""
    lines = [f"# {title}", "", markdown_table(rows), "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table; its first row are headings."""
    words = [":---" if left else "---:" for left in word_columns(rows)]
    return "\n".join(_markdown_row(row) for row in (rows[0], words, *rows[1:]))


def render_csv(
    dataset_name: str, results: Mapping[str, Result | None], trained: bool = True
) -> str:
    """The same comparison for a spreadsheet: every score, at full precision, and the counts."""
    strict = [key for key in HEADINGS if key != NOT_STRICT]
    columns = ["model", "source", "dataset", "epoch", *HEADINGS, *(f"strict_{k}" for k in strict)]
    columns += ["threshold", "images", "images_without_target", "targets", "pixels"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for model, result in results.items():
        row = {"model": model, "source": NOT_TRAINED, "dataset": dataset_name}
        if result is not None:
            row.update(source=THIS_RUN, epoch=result.epoch)
            row.update({key: result.scores[key] for key in HEADINGS})
            row.update({f"strict_{key}": result.scores["strict"][key] for key in strict})
            row.update(result.evaluator.counts(), threshold=result.evaluator.threshold)
        writer.writerow(row)
        for reference in _references(model) if trained else ():
            row = {key: getattr(reference, key) for key in TABLE}
            row.update(model=model, source=f"reference {reference.framework}")
            writer.writerow({**row, "dataset": REFERENCE_DATASET, "epoch": REFERENCE_EPOCH})
    return text.getvalue()


def worst_first(images: Sequence[ImageCounts]) -> list[int]:
    """Indices of images: the lowest IoU first, of equal ones the most misses and false pixels."""
    keys = [(image.iou, -_misses(image), -image.strict.false_pixels) for image in images]
    return sorted(range(len(images)), key=keys.__getitem__)


def render_per_image(names: Sequence[str], evaluator: Evaluator) -> str:
    """A CSV with a line for each image, the worst first, in the strict definitions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "IoU", "targets", "hits", "misses", "false_regions", "false_pixels", "threshold"]
    )
    for index in worst_first(evaluator.images):
        image = evaluator.images[index]
        targets, hits, regions, false_pixels = image.strict
        writer.writerow([names[index], f"{image.iou:.6f}", targets, hits, targets - hits,
                         regions - hits, false_pixels, evaluator.threshold])
    return text.getvalue()


def describe_image(name: str, image: ImageCounts) -> str:
    """The line of an image in words."""
    targets, hits, regions, false_pixels = image.strict
    return (
        f"{name}: IoU {image.iou:.3f}, targets hit: {hits} of {targets}, "
        f"false regions: {regions - hits} (pixels: {false_pixels})"
    )


def _misses(image: ImageCounts) -> int:
    return image.strict.targets - image.strict.detected


def _references(model: str) -> list[Reference]:
    return [reference for reference in REFERENCE if reference.model == model]


def word_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column, whether it holds words rather than figures."""
    return [
        any(cell[:1].isalpha() or " " in cell for cell in column[1:]) for column in zip(*rows)
    ]


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, word_columns(rows))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
