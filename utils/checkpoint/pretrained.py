"""Publishes a run's best weights, which then come with the project, and finds published ones.

    python -m utils.checkpoint.pretrained --model_name L2SKNet_UNet  # a finished or stopped run

Copies the weights to model/pretrained/<dataset>/<model>.npz, writes a card (.md) beside them, and
copies the log to loss_curves/Jittor/.
A table that `cal_metrics.py --fa` prints may be added to the card, for `test.py --fa`.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils import cli, environment
from utils.checkpoint.weights import find_weights, read_meta
from utils.errors import UserError
from utils.files import atomic_path, write_text
from utils.paths import BEST, LAST, Paths
from utils.recipe import recipe_of

NEWEST = 10  # number of the last evaluated epochs that are averaged
FOLDER = cli.ROOT / "model" / "pretrained"
REAL = "REAL"  # a dataset joined from several; its weights are for frames of any camera
# The table of thresholds in a card, as cal_metrics.py --fa prints it.
FA_HEADINGS = ["wanted Fa", "threshold", "Fa", "Pd", "mIoU", "5 % to 95 %"]
CARD_COLUMNS = {**dict.fromkeys(("loss", "mIoU", "pixAcc", "fscore", "Pd"), "{:.4f}"),
                "Fa": "{:.3g}"}


def find_pretrained(dataset_name: str, model_name: str) -> Path | None:
    """The path of a model's pretrained weights for a dataset, else for NUDT-SIRST, or None."""
    paths = [FOLDER / name / f"{model_name}.npz" for name in (dataset_name, cli.DATASET)]
    return next((path for path in paths if path.is_file()), None)


def choose_weights(
    output_dir: str | Path, dataset_name: str, model_name: str
) -> tuple[Path, bool]:
    """The path of a model's best weights for a dataset, else of its pretrained weights.

    Returns:
        The path, and True if the weights were trained on the dataset below `output_dir`.

    Raises:
        UserError: there are neither.
    """
    trained = find_weights(output_dir, dataset_name, model_name)
    path = trained or find_pretrained(dataset_name, model_name)
    if path is None:
        raise UserError(
            f"{model_name} is not trained on {dataset_name}; train it (python train_device0.py "
            f"--model_name {model_name} --dataset_name {dataset_name}) or name a file with "
            "--weights"
        )
    return path, trained is not None


def dataset_for_own_images(output_dir: str | Path, model_name: str) -> str:
    """REAL if the model has weights for it, trained or pretrained; else NUDT-SIRST."""
    there = find_weights(output_dir, REAL, model_name) or (
        FOLDER / REAL / f"{model_name}.npz").is_file()
    return REAL if there else cli.DATASET


def threshold_for(weights: Path, fa: float) -> float:
    """The threshold for a wanted rate of false alarms, from the card beside the weights.

    Args:
        weights: FILE.npz, whose card is FILE.md.
        fa: pixels of false alarms per pixel.

    Raises:
        UserError: there is no card, or it has no threshold for this rate.
    """
    card, known = weights.with_suffix(".md"), {}
    if card.is_file():
        known = read_thresholds(card.read_text("utf-8", errors="replace"))
    for rate, threshold in known.items():
        if math.isclose(rate, fa) and threshold is not None:
            return threshold
    reached = [f"{rate:g}" for rate, threshold in known.items() if threshold is not None]
    reason = f"its card has thresholds for {', '.join(reached)}"
    if not reached:
        reason = f"no table of thresholds in {card}"
    elif any(math.isclose(rate, fa) for rate in known):
        reason = f"on the test list none has so low a rate; {reason}"
    raise UserError(f"{weights}: no threshold for --fa {fa:g}: {reason}; give --threshold, or "
                    "measure one on a test list with cal_metrics.py --fa")


def read_thresholds(card: str) -> dict[float, float | None]:
    """Wanted Fa → threshold, from the table of a card; None: not reached; empty: no table."""
    table = re.search(r"^\|" + r"\|".join(f" *{name} *" for name in FA_HEADINGS[:2])
                      + r"\|.*\n\|[-:| ]+\n((?:\|.*\n?)*)", card, re.MULTILINE)
    known = {}
    for line in table[1].splitlines() if table else ():
        with suppress(ValueError):  # no row of numbers
            rate, threshold = (cell.strip() for cell in line.split("|")[1:3])
            known[float(rate)] = None if threshold == "none" else float(threshold)
    return known


def publish(
    output_dir: str | Path, dataset_name: str, model_name: str, remark: str = ""
) -> tuple[Path, Path, Path]:
    """Copies the best weights of a run to model/pretrained/ and its log to loss_curves/Jittor/.

    Args:
        remark: a sentence for the card.

    Returns:
        The paths written: weights, card, log.

    Raises:
        UserError: the run is not there, or was never evaluated.
    """
    run = Paths(output_dir).checkpoints(dataset_name, model_name)
    best, last = run / BEST, run / LAST
    for path in (best, last):
        if not path.is_file():
            raise UserError(f"{path}: not there; train and evaluate {model_name} first")
    meta, commit = read_meta(last), environment.commit() or "unknown"
    log = Paths(output_dir).log(dataset_name, model_name, meta["started"])
    if not log.is_file():
        raise UserError(f"{log}: the log of this run is not there; bring it back")
    text = make_card(read_meta(best), meta, remark, commit)
    weights = FOLDER / dataset_name / f"{model_name}.npz"
    card = weights.with_suffix(".md")
    copied_log = Paths(cli.ROOT).loss_curves() / log.name
    for source, target in ((best, weights), (log, copied_log)):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    write_text(card, text)
    return weights, card, copied_log


def make_card(
    best: Mapping[str, Any], last: Mapping[str, Any], remark: str, commit: str
) -> str:
    """The card in Markdown; `best` and `last` are the `meta` of the two checkpoints."""
    at_best, at_last = best["history"][-1], last["history"][-1]
    rows = [
        ("data", f"{best['dataset']}, train.txt; metrics on test.txt"),
        ("recipe", recipe_of(last).describe()),
        *([("begun from", f"the weights {last['weights']}")] if last.get("weights") else []),
        ("trained", f"{at_last['epoch']} epochs; best mIoU after epoch {at_best['epoch']}"),
        ("run begun", best["started"]),
        ("published", f"{time.strftime('%Y-%m-%d')}, commit {commit}"),
    ]
    lines = [f"# {best['model']} on {best['dataset']}", ""]
    lines += [remark, ""] if remark else []
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["| checkpoint | " + " | ".join(CARD_COLUMNS) + " |",
              "|---|" + "---|" * len(CARD_COLUMNS)]
    newest = [record for record in last["history"] if record["mIoU"] is not None][-NEWEST:]
    groups = [(f"this file, the best by mIoU (epoch {at_best['epoch']})", [at_best]),
              (f"the last epoch ({at_last['epoch']})", [at_last])]
    if len(newest) > 1:
        groups.append((f"mean ± standard deviation of {len(newest)} "
                       f"(epochs {newest[0]['epoch']} to {newest[-1]['epoch']})", newest))
    for name, records in groups:
        lines.append(_row(name, records))
        if all(record.get("strict") for record in records):
            lines.append(_row("the same, strict", [{**record, **record["strict"], "loss": None,
                                                    "pixAcc": None} for record in records]))
    return "\n".join(lines) + "\n"


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    """A line of the card: the values of one record, or mean and deviation of several."""
    cells = []
    for key, form in CARD_COLUMNS.items():
        values = [record[key] for record in records]
        cell = "–" if None in values else form.format(np.mean(values))
        if len(values) > 1 and None not in values:
            cell += " ± " + form.format(np.std(values))
        cells.append(cell)
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with these arguments, by default the command line's."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], without_effect=(
        "dataset_dir", "device", "seed", "num_workers"))
    parser.add_argument("--remark", default="", help="a sentence for the card")
    args = parser.parse_args(argv)
    for dataset_name in args.dataset_names:
        for model_name in args.model_names:
            for path in publish(args.output_dir, dataset_name, model_name, args.remark):
                print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
