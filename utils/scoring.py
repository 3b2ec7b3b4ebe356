"""Scores the predictions of a model, ours or anyone's, that lie in .mat files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import io
from tqdm import tqdm

from evaluation import Evaluator
from utils.datasets import Split
from utils.errors import UserError
from utils.files import atomic_path
from utils.reports import (
    Result,
    comparison_notes,
    comparison_table,
    render_csv,
    render_markdown,
    render_report,
    render_text,
)

SHOWN = 5


def mat_folder(output_dir: str | Path, dataset_name: str, model_name: str) -> Path:
    """Where the predictions of a model for a dataset lie, one NAME.mat an image."""
    return Path(output_dir) / "result" / dataset_name / "mat" / model_name


def read_prediction(path: str | Path) -> np.ndarray:
    """The probability map of a .mat file: its array `T`, H×W.

    Raises:
        UserError: not a .mat file that can be read, or one without `T`.
    """
    try:
        content = io.loadmat(path, variable_names=["T"])
        if "T" in content:
            return content["T"]
        found = [name for name, _, _ in io.whosmat(path)]
    except NotImplementedError as error:
        raise UserError(f"{path}: a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # SciPy raises a dozen kinds for a file that is no .mat
        raise UserError(f"{path}: not a .mat file that can be read ({error})") from error
    raise UserError(
        f"{path}: holds no array T but {', '.join(found) or 'nothing'}; save the probabilities as T"
    )


def score_predictions(split: Split, folder: str | Path, threshold: float = 0.5) -> Evaluator:
    """Scores the predictions for every name of a split, and only those.

    Args:
        split: names and masks to score against.
        folder: holds NAME.mat for each name.
        threshold: of `Evaluator`.

    Raises:
        UserError: predictions are missing, or cannot be used; it names them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(_no_folder(folder))
    missing = [name for name in split.names if not (folder / f"{name}.mat").is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(split.names)} predictions missing: "
            f"{listed([f'{name}.mat' for name in missing])}; predict with test.py first"
        )
    evaluator, problems = Evaluator(threshold), []
    pairs = zip(split.names, split.masks)
    for name, mask in tqdm(
        pairs, "scoring", len(split.names), unit="image", leave=False, disable=None
    ):
        path = folder / f"{name}.mat"
        try:
            evaluator.update(read_prediction(path), mask)
        except UserError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{path}: {error}; predict again")
    if problems:
        more = f" (and {len(problems) - 1} more files that cannot be used)" if problems[1:] else ""
        raise UserError(problems[0] + more)
    return evaluator


def stale_predictions(split: Split, folder: str | Path) -> list[str]:
    """Files in the folder of predictions that no name of the split asks for."""
    asked = {f"{name}.mat" for name in split.names}
    return sorted({path.name for path in Path(folder).glob("*.mat")} - asked)


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many they are if that is not all."""
    more = f" ... ({len(names)} files)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save_report(
    output_dir: str | Path, dataset_name: str, model_name: str, evaluator: Evaluator
) -> tuple[str, Path, Path]:
    """Writes the report and the ROC curve of a model below `<output_dir>/result`.

    Returns:
        The report's text, its path, and the path of the .mat file with `tpr` and `fpr`.
    """
    stem = Path(output_dir) / "result" / f"{dataset_name}_{model_name}"
    report = render_report(dataset_name, model_name, evaluator)
    text_path = stem.with_name(f"{stem.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}.txt")
    with atomic_path(text_path) as temporary:
        temporary.write_text(report, encoding="utf-8")
    roc_path = stem.with_name(f"{stem.name}.mat")
    fpr, tpr = evaluator.roc()
    with atomic_path(roc_path) as temporary:
        io.savemat(temporary, {"tpr": tpr, "fpr": fpr})
    return report, text_path, roc_path


def save_comparison(
    output_dir: str | Path, dataset_name: str, results: Mapping[str, Result | None], over: str
) -> tuple[str, Path, Path]:
    """Writes the table of several models beside the reference, as Markdown and CSV.

    Args:
        results: model name -> its result on one and the same test list; None: not trained.
        over: over how much the scores are (`describe_counts`).

    Returns:
        The table for the terminal, and the paths of the two files.
    """
    table = comparison_table(results)
    title = f"Models trained on {dataset_name}, beside the reference"
    notes = comparison_notes(dataset_name, over)
    stem = Path(output_dir) / "result" / f"{dataset_name}_comparison"
    texts = {
        stem.with_name(f"{stem.name}.md"): render_markdown(table, title, notes),
        stem.with_name(f"{stem.name}.csv"): render_csv(dataset_name, results),
    }
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return (render_text(table, title, notes), *texts)


def _no_folder(folder: Path) -> str:
    line = f"{folder}: no predictions of {folder.name} here; predict with test.py first"
    if folder.parent.is_dir():
        others = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        if others:
            line += f" (there are some of {', '.join(others)})"
    return line
