"""Paths of all files below --output_dir, and below the --output of test.py.

Nothing is written here. A `*` in place of a name makes a pattern for `glob`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from model import MODEL_NAMES

# Checkpoints; before.npz is the previous last.npz.
BEST, LAST, BEFORE = "best.npz", "last.npz", "before.npz"


@dataclass(frozen=True)
class Paths:
    """Paths below one --output_dir.

    Names may hold dots: so suffixes are appended, never replaced by `with_suffix`.
    """

    output_dir: str | Path

    @property
    def logs(self) -> Path:
        """The folder of training logs."""
        return Path(self.output_dir, "log")

    def log(self, dataset_name: str, model_name: str, started: str) -> Path:
        """The log of the run that began at `started`."""
        return self.logs / f"{dataset_name}_{model_name}_{started}.txt"

    def checkpoints(self, dataset_name: str, model_name: str = "") -> Path:
        """The folder of a model's weights trained on a dataset; without a model, of all models'."""
        return Path(self.output_dir, "model", "checkpoints", dataset_name, model_name)

    def loss_curves(self, framework: str = "Jittor") -> Path:
        """The folder of the loss curves of one framework's runs."""
        return Path(self.output_dir, "loss_curves", framework)

    def loss_curve(self, framework: str, model_name: str, prefix: str = "") -> Path:
        """The curves of one model; the prefix tells datasets apart."""
        return self.loss_curves(framework) / f"{prefix}{model_name}_loss_curve.png"

    def loss_comparison(self, framework: str, title: str) -> Path:
        """The curves of several runs, named after their dataset or their labels."""
        stem = re.sub(r"([^\w.]|_)+", "_", title.lower())
        return self.loss_curves(framework) / f"{stem}_comparison.png"

    def predictions(self, name: str) -> Path:
        """The folder of all predictions for a dataset, or for images of that name."""
        return self._result(name)

    def report(self, dataset_name: str, model_name: str, stamp: str) -> Path:
        """The scores of one model as text."""
        return self._result(f"{dataset_name}_{model_name}_{stamp}.txt")

    def roc(self, dataset_name: str, model_name: str) -> Path:
        """The ROC curve of one model."""
        return self._result(f"{dataset_name}_{model_name}.mat")

    def per_image(self, dataset_name: str, model_name: str) -> Path:
        """The scores of one model for each image."""
        return self._result(f"{dataset_name}_{model_name}_per_image.csv")

    def pd_fa(self, dataset_name: str, model_name: str) -> Path:
        """Pd, Fa and mIoU of one model at many thresholds."""
        return self._result(f"{dataset_name}_{model_name}_pd_fa.csv")

    def table(self, dataset_name: str, trained: bool = True) -> tuple[Path, Path]:
        """The scores of several models, .md and .csv: of models trained here, or of any models."""
        stem = f"{dataset_name}_{'comparison' if trained else 'models'}"
        return self._result(f"{stem}.md"), self._result(f"{stem}.csv")

    def score_curves(self, dataset_name: str, model_name: str = "") -> tuple[Path, Path]:
        """ROC and the other curves of several models, or of one model, .png and .pdf."""
        return self._figure(f"{'_'.join(filter(None, (dataset_name, model_name)))}_curves")

    def qualitative(self, dataset_name: str) -> tuple[Path, Path]:
        """Images and predictions side by side, .png and .pdf."""
        return self._figure(f"{dataset_name}_qualitative")

    def stages(self, dataset_name: str, model_name: str) -> tuple[Path, Path]:
        """The maps in the contrast stages of one model, .png and .pdf."""
        return self._figure(f"{dataset_name}_{model_name}_stages")

    def kernels(self, dataset_name: str, model_name: str) -> tuple[Path, Path]:
        """The kernels of one model, .png and .pdf."""
        return self._figure(f"{dataset_name}_{model_name}_kernels")

    def worst(self, dataset_name: str, model_name: str = "") -> Path:
        """The folder of a model's worst images; without a model, of all models'."""
        return self.predictions(dataset_name) / "worst" / model_name

    def page(self, dataset_name: str) -> Path:
        """The page about an evaluation, .html."""
        return self._result(f"{dataset_name}_report.html")

    def boxes(self, dataset_name: str, list_name: str) -> Path:
        """The targets of one list of a dataset as boxes, .json."""
        return self._result(f"{dataset_name}_{list_name}_boxes.json")

    def _result(self, name: str) -> Path:
        return Path(self.output_dir, "result", name)

    def _figure(self, stem: str) -> tuple[Path, Path]:
        return self._result(f"{stem}.png"), self._result(f"{stem}.pdf")


@dataclass(frozen=True)
class PredictionPaths:
    """Paths of one model's predictions below `Paths.predictions`, or below --output."""

    folder: Path
    model_name: str

    @property
    def img(self) -> Path:
        """The folder of probability maps as 8-bit grey images, NAME.png."""
        return self.folder / "img" / self.model_name

    @property
    def mat(self) -> Path:
        """The folder of exact probability maps, NAME.mat."""
        return self.folder / "mat" / self.model_name

    def maps(self, name: str) -> tuple[Path, Path]:
        """The probability map of one image: as an image, and exact."""
        return self.img / f"{name}.png", self.mat / f"{name}.mat"

    @property
    def overlay(self) -> Path:
        """The folder of images with their detections circled, NAME.png."""
        return self.folder / "overlay" / self.model_name

    @property
    def overlay_video(self) -> Path:
        """The overlays of a clip as a clip."""
        return self.folder / "overlay" / f"{self.model_name}.mp4"

    def detections(self, suffix: str) -> Path:
        """The list of detections, with the suffix .csv, .json or .coco.json."""
        return self.folder / "detections" / f"{self.model_name}{suffix}"


def is_result(folder: Path) -> bool:
    """True if `folder` has the name of a folder that `PredictionPaths` gives to one model."""
    results = PredictionPaths(folder.parent.parent, folder.name)
    return folder.name in MODEL_NAMES and folder in (results.img, results.mat, results.overlay)
