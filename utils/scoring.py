"""Scores the predictions of a model, ours or anyone's, that lie in files."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import io
from tqdm import tqdm

from evaluation import Evaluator
from utils.datasets import Split
from utils.errors import UserError
from utils.files import atomic_path
from utils.images import read_gray, to_float
from utils.reports import (
    Result,
    comparison_notes,
    comparison_table,
    describe_image,
    render_csv,
    render_markdown,
    render_per_image,
    render_report,
    render_text,
    worst_first,
)

SHOWN = 5
PREDICTION_SUFFIXES = (".mat", ".npy", ".png")
# What is left of a mask of 0 and 1 that is taken for one of 8 or 16 bits.
ONE_OF_FULL_SCALE = (np.float32(1) / np.float32(255), np.float32(1) / np.float32(65535))


def mat_folder(output_dir: str | Path, dataset_name: str, model_name: str) -> Path:
    """Where the predictions of a model for a dataset lie, one NAME.mat an image."""
    return Path(output_dir) / "result" / dataset_name / "mat" / model_name


def prediction_folders(args: Namespace, dataset_name: str) -> dict[str, Path]:
    """Which models are meant, and where the predictions of each lie, by --model_name and --pred.

    Raises:
        UserError: names and folders do not go together.
    """
    models, folders = args.model_names, args.pred
    if not folders:
        models = models or args.default_models
        folders = [mat_folder(args.output_dir, dataset_name, model) for model in models]
    elif len(args.dataset_names) > 1:
        raise UserError(f"--pred {folders[0]}: of which dataset? name one with --dataset_name")
    elif models and len(folders) == 1 and (len(models) > 1 or (folders[0] / models[0]).is_dir()):
        folders = [folders[0] / model for model in models]
    models = models or [folder.resolve().name for folder in folders]
    if len(models) != len(folders):
        raise UserError(
            f"--pred: {len(folders)} folders but {len(models)} of --model_name; name each folder"
        )
    repeated = [name for name, count in Counter(models).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: several models of this name; name each with --model_name")
    return dict(zip(models, folders))


def find_predictions(folder: str | Path) -> dict[str, Path]:
    """The files of predictions in a folder, by stem; of one stem .mat before .npy before .png."""
    files = [
        path for path in sorted(Path(folder).iterdir())
        if path.suffix.lower() in PREDICTION_SUFFIXES and not path.name.startswith(".")
    ]  # fmt: skip
    files.sort(key=lambda path: -PREDICTION_SUFFIXES.index(path.suffix.lower()))
    return {path.stem: path for path in files}


def read_prediction(path: str | Path) -> np.ndarray:
    """The probability map in a file of ours or of any other method.

    Takes a .mat (its array `T`, else the only one it holds), a .npy, or an image. 8 and 16 bits are
    divided by full scale, other numbers are taken as they are; axes of length one are dropped.

    Returns:
        H×W.

    Raises:
        UserError: the file cannot be read, or holds several arrays and none is `T`.
    """
    path = Path(path)
    read = {".mat": _read_mat, ".npy": _read_npy}.get(path.suffix.lower(), read_gray)
    array = read(path)
    if array.ndim > 2:
        array = array.squeeze()
    return to_float(array) if array.dtype in (np.uint8, np.uint16) else array


def _read_mat(path: Path) -> np.ndarray:
    try:
        content = io.loadmat(path, variable_names=["T"])
        if "T" not in content:
            content = io.loadmat(path)
    except NotImplementedError as error:
        raise UserError(f"{path}: a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # SciPy raises a dozen kinds for a file that is no .mat
        raise UserError(f"{path}: not a .mat file that can be read ({error})") from error
    arrays = {name: array for name, array in content.items() if not name.startswith("__")}
    if len(arrays) != 1:
        raise UserError(
            f"{path}: holds no array T but {', '.join(arrays) or 'nothing'}; "
            "save the probabilities as T"
        )
    return np.asarray(*arrays.values())


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged, of another format, or of Python objects
        raise UserError(f"{path}: not a .npy file that can be read ({error})") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an .npz under the name of an .npy; save one array with np.save")
    return array


def score_predictions(split: Split, folder: str | Path, threshold: float = 0.5) -> Evaluator:
    """Scores the predictions for every name of a split, and only those.

    Args:
        split: names and masks to score against.
        folder: holds NAME.mat, .npy or .png for each name.
        threshold: of `Evaluator`.

    Returns:
        The evaluator; its `images` are in the order of `split.names`.

    Raises:
        UserError: predictions are missing, or cannot be used; it names them.
    """
    files = _files_of(split.names, folder)
    evaluator, problems, top = Evaluator(threshold), [], 0
    pairs = zip(split.names, split.masks)
    for name, mask in tqdm(pairs, "scoring", len(split), unit="image", leave=False, disable=None):
        try:
            prediction = read_prediction(files[name])
            evaluator.update(prediction, mask)
            top = max(top, prediction.max())
        except UserError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{files[name]}: {error}; save probabilities, height x width, 0 to 1")
    if problems:
        more = f" (and {len(problems) - 1} more files that cannot be used)" if problems[1:] else ""
        raise UserError(problems[0] + more)
    if top in ONE_OF_FULL_SCALE:
        raise UserError(
            f"{folder}: no prediction has a value above 1 on a scale that ends at 255 (16 bits: "
            "65535); save masks with 0 and 255, or as bool in .npy"
        )
    return evaluator


def read_predictions(split: Split, folder: str | Path, rows: Sequence[int]) -> list[np.ndarray]:
    """The predictions for some images of a split, by index.

    Raises:
        UserError: one is missing, cannot be read, or is not of the size of its image.
    """
    names = [split.names[row] for row in rows]
    files = _files_of(names, folder)
    maps = [read_prediction(files[name]) for name in names]
    for row, name, prediction in zip(rows, names, maps):
        if prediction.shape != split.images[row].shape:
            raise UserError(
                f"{files[name]}: the prediction is of shape {prediction.shape} but its image of "
                f"{split.images[row].shape}; save it at the size of the image"
            )
    return maps


def some_rows(split: Split, count: int = 4) -> list[int]:
    """Indices of some images with a target, evenly chosen from the list; the first if none has."""
    rows = [row for row, mask in enumerate(split.masks) if mask.any()] or [0]
    return rows[:: max(len(rows) // count, 1)][:count]


def describe_predictions(split: Split, folder: str | Path) -> str:
    """What was scored: how many files of which kind, where, and which are not asked for."""
    files = find_predictions(folder)
    kinds = Counter(files[name].suffix for name in split.names)
    line = " and ".join(f"{count} {suffix}" for suffix, count in kinds.items()) + f" in {folder}"
    stale = sorted(path.name for name, path in files.items() if name not in set(split.names))
    return line + (f"\nignored, not in the {split.split} list: {listed(stale)}" if stale else "")


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many they are if that is not all."""
    more = f" ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save_report(
    output_dir: str | Path,
    dataset_name: str,
    model_name: str,
    names: Sequence[str],
    evaluator: Evaluator,
    source: str,
) -> tuple[str, Path, Path, Path]:
    """Writes what there is to say of one model below `<output_dir>/result`.

    Args:
        names: of the evaluator's images.
        source: what was scored (`describe_predictions`).

    Returns:
        The report's text, its path, the .mat file with `tpr` and `fpr`, and the .csv with a line
        for each image.
    """
    stem = f"{dataset_name}_{model_name}"
    result = Path(output_dir) / "result"
    report = render_report(dataset_name, model_name, evaluator, source)
    text_path = result / f"{stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}.txt"
    write_text(text_path, report)
    roc_path = result / f"{stem}.mat"
    fpr, tpr = evaluator.roc()
    with atomic_path(roc_path) as temporary:
        io.savemat(temporary, {"tpr": tpr, "fpr": fpr})
    csv_path = result / f"{stem}_per_image.csv"
    write_text(csv_path, render_per_image(names, evaluator))
    return report, text_path, roc_path, csv_path


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
    name = f"{dataset_name}_{'comparison' if trained else 'models'}"
    title = f"Models {'trained ' if trained else ''}on {dataset_name}"
    title += ", beside the reference" if trained else ""
    table = comparison_table(results, trained)
    notes = comparison_notes(dataset_name, results, trained)
    markdown = Path(output_dir) / "result" / f"{name}.md"
    write_text(markdown, render_markdown(table, title, notes))
    write_text(markdown.with_suffix(".csv"), render_csv(dataset_name, results, trained))
    return render_text(table, title, notes), markdown, markdown.with_suffix(".csv")


def save_worst(
    output_dir: str | Path,
    model_name: str,
    split: Split,
    folder: Path,
    evaluator: Evaluator,
    count: int,
) -> list[Path]:
    """Writes the panels of the worst images to `<output_dir>/result/<dataset>/worst/<model>`.

    What an earlier call left there is removed.

    Args:
        split: the images that were scored.
        folder: of the predictions.
        evaluator: their scores, in the order of the split.

    Returns:
        The pictures, the worst first: 01_NAME.png, 02_...
    """
    from utils.figures import detection_figure

    files = find_predictions(folder)
    worst = Path(output_dir) / "result" / split.name / "worst" / model_name
    for old in worst.glob("[0-9]*_*.png"):
        old.unlink()
    paths = []
    for place, index in enumerate(worst_first(evaluator.images)[:count], 1):
        name, image = split.names[index], evaluator.images[index]
        paths.append(worst / f"{place:0{len(str(count))}}_{name}.png")
        detection_figure(
            paths[-1], [""], [split.images[index]], [split.masks[index]],
            {model_name: [read_prediction(files[name])]},
            threshold=evaluator.threshold, title=describe_image(name, image), size=2.4,
            zoom_on_errors=True,
        )  # fmt: skip
    return paths


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _files_of(names: Sequence[str], folder: str | Path) -> dict[str, Path]:
    """The files of predictions in a folder, which are there for all `names`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(_no_folder(folder))
    files = find_predictions(folder)
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} predictions missing: {listed(missing)} "
            f"({', '.join(PREDICTION_SUFFIXES)}); predict with test.py first"
        )
    return files


def _no_folder(folder: Path) -> str:
    line = f"{folder}: no predictions of {folder.name} here; predict with test.py first"
    if folder.parent.is_dir():
        beside = (path for path in folder.parent.iterdir() if path.is_dir())
        with contextlib.suppress(PermissionError):
            others = sorted(path.name for path in beside if find_predictions(path))
            line += f" (there are some of {', '.join(others)})" if others else ""
    return line
