"""Every path and file name below --output_dir, and below the --output of test.py.

Paths are made here and nothing is written; a `*` in place of a name makes a pattern for `glob`.
"""

from __future__ import annotations

import re
from pathlib import Path

# In `checkpoint_folder`; the third is what `last.npz` was before.
BEST, LAST, BEFORE = "best.npz", "last.npz", "before.npz"

# Training


def log_folder(output_dir: str | Path) -> Path:
    """Where training logs lie."""
    return Path(output_dir) / "log"


def log_file(output_dir: str | Path, dataset_name: str, model_name: str, started: str) -> Path:
    """The log of the run that began at `started`."""
    return log_folder(output_dir) / f"{dataset_name}_{model_name}_{started}.txt"


def checkpoint_folder(output_dir: str | Path, dataset_name: str, model_name: str = "") -> Path:
    """Where the weights of a model trained on a dataset lie; without a model, of all of them."""
    return Path(output_dir) / "model" / "checkpoints" / dataset_name / model_name


def loss_curve_folder(output_dir: str | Path, framework: str = "Jittor") -> Path:
    """Where the loss curves of a framework's runs lie."""
    return Path(output_dir) / "loss_curves" / framework


def loss_curve(folder: Path, model_name: str, prefix: str = "") -> Path:
    """The curve of one model in a `loss_curve_folder`; the prefix tells datasets apart."""
    return folder / f"{prefix}{model_name}_loss_curve.png"


def loss_comparison(folder: Path, what: str) -> Path:
    """The curves of several runs in a `loss_curve_folder`: of a dataset's, or by their labels."""
    stem = re.sub(r"([^\w.]|_)+", "_", what.lower())
    return folder / f"{stem}_comparison.png"


# Predictions, by test.py: `folder` is `predictions(...)`, or what --output names.


def predictions(output_dir: str | Path, name: str) -> Path:
    """The folder of all predictions for a dataset, or for the images of that name."""
    return _result(output_dir) / name


def img_folder(folder: Path, model_name: str) -> Path:
    """Probability maps as 8-bit grey, NAME.png."""
    return folder / "img" / model_name


def mat_folder(folder: Path, model_name: str) -> Path:
    """Probability maps as they are, NAME.mat."""
    return folder / "mat" / model_name


def overlay_folder(folder: Path, model_name: str) -> Path:
    """Images with their detections circled, NAME.png."""
    return folder / "overlay" / model_name


def detections(folder: Path, model_name: str) -> tuple[Path, Path]:
    """The lists of detections, .csv and .json."""
    # Not with_suffix, here and below: a name may hold a dot.
    stem = folder / "detections" / model_name
    return stem.with_name(f"{model_name}.csv"), stem.with_name(f"{model_name}.json")


def coco(folder: Path, model_name: str) -> Path:
    """The detections once more, as COCO has them."""
    return folder / "detections" / f"{model_name}.coco.json"


# Scores


def report(output_dir: str | Path, dataset_name: str, model_name: str, stamp: str) -> Path:
    """The scores of one model as text."""
    return _result(output_dir) / f"{dataset_name}_{model_name}_{stamp}.txt"


def roc(output_dir: str | Path, dataset_name: str, model_name: str) -> Path:
    """Its ROC curve."""
    return _result(output_dir) / f"{dataset_name}_{model_name}.mat"


def per_image(output_dir: str | Path, dataset_name: str, model_name: str) -> Path:
    """Its scores image by image."""
    return _result(output_dir) / f"{dataset_name}_{model_name}_per_image.csv"


def table(output_dir: str | Path, dataset_name: str, trained: bool = True) -> tuple[Path, Path]:
    """The scores of several models, .md and .csv: those trained here, or any."""
    stem = f"{dataset_name}_{'comparison' if trained else 'models'}"
    return _result(output_dir) / f"{stem}.md", _result(output_dir) / f"{stem}.csv"


def score_curves(
    output_dir: str | Path, dataset_name: str, model_name: str = ""
) -> tuple[Path, Path]:
    """ROC and precision-recall of several models, or of one, .png and .pdf."""
    stem = f"{dataset_name}_{model_name}" if model_name else dataset_name
    return _figure(output_dir, f"{stem}_curves")


def qualitative(
    output_dir: str | Path, dataset_name: str, surface: bool = False
) -> tuple[Path, Path]:
    """Images and predictions side by side, flat or as surfaces, .png and .pdf."""
    return _figure(output_dir, f"{dataset_name}_qualitative{'_3d' if surface else ''}")


def worst_folder(output_dir: str | Path, dataset_name: str, model_name: str = "") -> Path:
    """Pictures of the worst images of a model; without a model, the folder of all of them."""
    return predictions(output_dir, dataset_name) / "worst" / model_name


def page(output_dir: str | Path, dataset_name: str) -> Path:
    """All there is to see of an evaluation, .html."""
    return _result(output_dir) / f"{dataset_name}_report.html"


def boxes(output_dir: str | Path, dataset_name: str, split: str) -> Path:
    """The targets of a dataset's list as boxes, .json."""
    return _result(output_dir) / f"{dataset_name}_{split}_boxes.json"


def _result(output_dir: str | Path) -> Path:
    return Path(output_dir) / "result"


def _figure(output_dir: str | Path, stem: str) -> tuple[Path, Path]:
    return _result(output_dir) / f"{stem}.png", _result(output_dir) / f"{stem}.pdf"
