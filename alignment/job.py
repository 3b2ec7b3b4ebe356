"""The job that both sides read, and the data that both use: NumPy alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import ROOT
from utils.datasets import ImageList, load_split, train_batches
from utils.processes import run
from utils.recipe import SCHEDULE, Recipe

FRAMEWORKS = ("Jittor", "Pytorch")  # the folders of whole runs
# Fields of `Recipe` that both sides are given; the others stay at their defaults.
GIVEN = ("epochs", "batch_size", "lr", "seed", "image_size", "milestones")


@dataclasses.dataclass(frozen=True)
class Job:
    """The comparison of one model, as both sides receive it.

    The sides meet through files: Jittor writes `start_file`, `capture_files` and `steps_file`,
    PyTorch `comparison_file`.

    Attributes:
        recipe: of whole runs and, without the schedule, of steps; `epochs` 0 means no whole runs.
        batches: the number of batches that are compared stage by stage.
        steps: the number of training steps side by side.
        spoil: the weight that is made 1 % larger in Jittor, or None.
        eval_every, eval_last: of `TrainingOptions`, for whole runs.
        compile: True if PyTorch's whole runs use torch.compile and channels_last.
        only_pytorch: True if PyTorch trains alone, with nothing to compare.
    """

    model_name: str
    dataset_name: str
    dataset_dir: str
    output_dir: str
    num_workers: int
    device: str
    precision: str
    recipe: Recipe
    batches: int
    steps: int
    spoil: str | None
    eval_every: int
    eval_last: int
    compile: bool
    only_pytorch: bool

    @property
    def folder(self) -> Path:
        """The folder of the model's results."""
        return Path(self.output_dir) / "alignment" / self.dataset_name / self.model_name

    @property
    def exchange(self) -> Path:
        """The folder of large files, which is removed once both sides are done."""
        return self.folder / "exchange"

    @property
    def start_file(self) -> Path:
        """The initial weights."""
        return self.folder / "start.npz"

    @property
    def comparison_file(self) -> Path:
        """The measured differences of both sides."""
        return self.folder / "comparison.json"

    @property
    def steps_file(self) -> Path:
        """Losses and weights of Jittor's steps."""
        return self.exchange / "steps.npz"

    @property
    def capture_files(self) -> list[Path]:
        """Jittor's captures, one per batch."""
        return [self.exchange / f"batch_{index}.npz" for index in range(self.batches)]

    def run_recipe(self) -> dict[str, Any]:
        """Name → value of the fields `GIVEN` of the recipe of whole runs."""
        return {name: getattr(self.recipe, name) for name in GIVEN}

    def step_recipe(self) -> dict[str, Any]:
        """Name → value of all that decides the comparison of stages and steps."""
        values = step_values(self.run_recipe())
        return {**values, "batches": self.batches, "precision": self.precision}


def step_values(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without its schedule, which single steps do not have."""
    return {name: value for name, value in recipe.items() if name not in SCHEDULE}


def start(module: str, task: str, job: Job | None = None) -> int:
    """Runs `task` of `alignment.<module>` in its own process; returns the exit status.

    The process prints its errors itself, unless it was killed. The status is 130 after Ctrl-C.
    """
    words = [] if job is None else [json.dumps(dataclasses.asdict(job))]
    command = [sys.executable, "-m", f"alignment.{module}", task, *words]
    status, received = run(command, cwd=ROOT)
    if status < 0 and not received:
        print(f"error: {task} of {module} was killed by signal {-status}", file=sys.stderr)
    return 128 + (received or -status) if received or status < 0 else status


def read_job() -> Job:
    """The job that `start` gave to this process."""
    values = json.loads(sys.argv[2])
    return Job(**{**values, "recipe": Recipe(**values["recipe"])})


def framework_folder(output_dir: str | Path, dataset_name: str, framework: str) -> Path:
    """Where the whole runs of a framework write: log/ and model/checkpoints/."""
    return Path(output_dir) / "alignment" / dataset_name / framework


def training_list(job: Job) -> ImageList:
    """The images that both sides train on."""
    return load_split(job.dataset_dir, job.dataset_name, "train", job.num_workers)


def step_batches(recipe: Recipe, split: ImageList) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches of a training with this seed, x and y, epoch after epoch without end."""
    for epoch in itertools.count(1):
        for _, x, y in train_batches(split, recipe, epoch):
            yield x, y


def trainable(names: list[str]) -> list[str]:
    """The names of parameters among official names, in one order for both sides."""
    return sorted(name for name in names if "running_" not in name)


def flat(arrays: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """The arrays of these names as one vector."""
    return np.concatenate([np.ravel(arrays[name]) for name in names])
