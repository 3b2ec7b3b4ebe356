"""Scores as people read them: a report of one model, and a table of several."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation import REFERENCE, Evaluator, Reference
from evaluation.reference import REFERENCE_DATASET, REFERENCE_EPOCH, REFERENCE_NOTE

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
)
TABLE = ("mIoU", "fscore", "Pd", "Fa")
STRICT_TABLE = ("nIoU", "fscore", "Pd", "Fa")
HEADINGS = dict(SCORES)

THIS_RUN = "this run"
NOT_TRAINED = "not trained"


class Result(NamedTuple):
    """The scores of a model (`Evaluator.compute`), and the epoch of its weights, "3 of 400"."""

    scores: dict
    epoch: str = ""


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


def render_report(dataset_name: str, model_name: str, evaluator: Evaluator) -> str:
    """All scores of one model, in both definitions."""
    scores = evaluator.compute()
    rows = [["", "comparable", "strict"]]
    for key, heading in SCORES:
        # nIoU is no score of the official code.
        comparable = None if key == "nIoU" else scores[key]
        strict = scores["strict"].get(key)
        rows.append([heading, format_score(key, comparable, 6), format_score(key, strict, 6)])
    return (
        f"{model_name} on {dataset_name}, test list\n"
        f"{describe_counts(evaluator)}\n\n"
        f"{_text_table(rows)}\n\n"
        "comparable  as the official code of L2SKNet computes them (published numbers: at 0.5):\n"
        "            mIoU and pixAcc at the threshold, the others after dividing each map by its\n"
        "            maximum; a false region of a matched one's area is not counted in Fa\n"
        "strict      all at the threshold itself, targets and regions matched optimally,\n"
        "            every unmatched region counted in Fa\n"
        "mIoU, pixAcc, F-score, precision, recall: over the pixels of all images; nIoU: mean over\n"
        "images; Pd: over targets; Fa: over all pixels; AUC: targets hit, background pixels lit\n"
    )


def comparison_table(results: Mapping[str, Result | None]) -> list[list[str]]:
    """Our scores beside the reference table, as rows of text, headings first.

    Args:
        results: model name -> result, or None for a model that is not trained.
    """
    headings = [HEADINGS[key] for key in TABLE]
    headings += [f"strict {HEADINGS[key]}" for key in STRICT_TABLE]
    rows = [["model", "source", "epoch", *headings]]
    for model, result in results.items():
        if result is None:
            rows.append([model, NOT_TRAINED, *["-"] * (len(headings) + 1)])
        else:
            scores = result.scores
            cells = [format_score(key, scores[key]) for key in TABLE]
            cells += [format_score(key, scores["strict"][key]) for key in STRICT_TABLE]
            rows.append([model, THIS_RUN, result.epoch or "-", *cells])
        for reference in _references(model):
            cells = [format_score(key, getattr(reference, key)) for key in TABLE]
            source = f"reference {reference.framework}"
            rows.append([model, source, REFERENCE_EPOCH, *cells, *["-"] * len(STRICT_TABLE)])
    return rows


def comparison_notes(dataset_name: str, over: str) -> list[str]:
    """What the rows of a comparison table are, a line each.

    Args:
        over: over how much our scores are (`describe_counts`).
    """
    return [
        f"{THIS_RUN}: {dataset_name} test list, {over}; weights of the epoch named, "
        "the best by mIoU.",
        f"reference: {REFERENCE_NOTE}; not measured here, comparable only with training of that "
        "length on that dataset.",
        "strict: all at the threshold itself, optimal matching, every unmatched region in Fa; the "
        "other columns are as the official code computes them.",
    ]


def render_text(rows: Sequence[Sequence[str]], title: str, notes: Sequence[str]) -> str:
    """A table for the terminal."""
    return "\n".join([title, "", _text_table(rows), "", *notes]) + "\n"


def render_markdown(rows: Sequence[Sequence[str]], title: str, notes: Sequence[str]) -> str:
    """A table for a README."""
    lines = [f"# {title}", "", _markdown_row(rows[0])]
    lines.append(_markdown_row(["---", "---"] + ["---:"] * (len(rows[0]) - 2)))
    lines += [_markdown_row(row) for row in rows[1:]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def render_csv(dataset_name: str, results: Mapping[str, Result | None]) -> str:
    """The same comparison for a spreadsheet: every score, at full precision."""
    strict = ("mIoU", "nIoU", "fscore", "precision", "recall", "Pd", "Fa")
    columns = ["model", "source", "dataset", "epoch"]
    columns += [*HEADINGS, *(f"strict_{key}" for key in strict)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for model, result in results.items():
        row = {"model": model, "source": NOT_TRAINED, "dataset": dataset_name}
        if result is not None:
            row.update(source=THIS_RUN, epoch=result.epoch)
            row.update({key: result.scores[key] for key in HEADINGS})
            row.update({f"strict_{key}": result.scores["strict"][key] for key in strict})
        writer.writerow(row)
        for reference in _references(model):
            row = {key: getattr(reference, key) for key in TABLE}
            row.update(model=model, source=f"reference {reference.framework}")
            writer.writerow({**row, "dataset": REFERENCE_DATASET, "epoch": REFERENCE_EPOCH})
    return text.getvalue()


def _references(model: str) -> list[Reference]:
    return [reference for reference in REFERENCE if reference.model == model]


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    words = [any(cell[:1].isalpha() for cell in column[1:]) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
