"""What the two sides are told and where they meet: NumPy alone, read by both."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.cli import ROOT
from utils.data.augment import Augmentation
from utils.datasets import ImageList, load_split, train_batches
from utils.processes import run
from utils.recipe import SCHEDULE, Recipe

FRAMEWORKS = ("Jittor", "Pytorch")  # the folders of whole runs
# Neither side does these, though a training may.
PLAIN = (*Augmentation._fields, "soft_masks")


@dataclasses.dataclass(frozen=True)
class Job:
    """What the processes of both sides are told.

    Attributes:
        recipe: of whole runs, `epochs` 0 for none; and of the steps, which have no schedule.
        batches: so many are compared stage by stage.
        steps: so many are taken side by side.
        spoil: the weight that is made 1 % larger in Jittor, or None.
        eval_every: whole runs score the test list after every so many epochs,
        eval_last: and after each of the last so many.
        compile: whether PyTorch's whole runs use torch.compile and channels_last.
        alone: whether PyTorch trains alone, with nothing to compare.
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
    eval_every: int = 1
    eval_last: int = 1
    compile: bool = False
    alone: bool = False

    def run_recipe(self) -> dict[str, Any]:
        """The recipe of whole runs by names; neither side augments, crops or takes soft masks."""
        values = dataclasses.asdict(self.recipe)
        return {name: value for name, value in values.items() if name not in PLAIN}

    def step_recipe(self) -> dict[str, Any]:
        """What decides the comparison by stages and the steps."""
        values = step_values(self.run_recipe())
        return {**values, "batches": self.batches, "precision": self.precision}


def step_values(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without its schedule, which a step has not."""
    return {name: value for name, value in recipe.items() if name not in SCHEDULE}


def start(module: str, task: str, job: Job | None = None) -> int:
    """Runs `task` of `alignment.<module>` in a process of its own.

    Returns:
        Its exit status; what is wrong it has said itself, unless it was killed. 130 after Ctrl-C.
    """
    words = [] if job is None else [json.dumps(dataclasses.asdict(job))]
    command = [sys.executable, "-m", f"alignment.{module}", task, *words]
    status, received = run(command, cwd=ROOT)
    if status < 0 and not received:
        print(f"error: {task} of {module} was killed by signal {-status}", file=sys.stderr)
    return 128 + (received or -status) if received or status < 0 else status


def read_job() -> Job:
    """The job of this process, as `start` was given it."""
    values = json.loads(sys.argv[2])
    return Job(**{**values, "recipe": Recipe(**values["recipe"])})


def framework_folder(output_dir: str | Path, dataset_name: str, framework: str) -> Path:
    """Where the whole runs of a framework write: log/ and model/checkpoints/."""
    return Path(output_dir) / "alignment" / dataset_name / framework


class Files(NamedTuple):
    """The files through which the sides meet; `exchange` is gone when both are done."""

    start: Path  # the initial weights
    comparison: Path
    epochs: Path  # of whole runs
    exchange: Path
    steps: Path
    captures: list[Path]  # one for each batch


def files(job: Job) -> Files:
    """The files of a job."""
    folder = Path(job.output_dir) / "alignment" / job.dataset_name / job.model_name
    exchange = folder / "exchange"
    return Files(
        start=folder / "start.npz", comparison=folder / "comparison.json",
        epochs=folder / "epochs.json", exchange=exchange, steps=exchange / "steps.npz",
        captures=[exchange / f"batch_{index}.npz" for index in range(job.batches)],
    )


def training_list(job: Job) -> ImageList:
    """The images that both sides train on."""
    return load_split(job.dataset_dir, job.dataset_name, "train", job.num_workers)


def step_batches(recipe: Recipe, split: ImageList) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first batches of a training with this seed, x and y, without end."""
    for epoch in itertools.count(1):
        batches = train_batches(split, recipe.batch_size, recipe.image_size, recipe.seed, epoch)
        for _, x, y in batches:
            yield x, y


def trainable(names: list[str]) -> list[str]:
    """Those official names that are parameters, in one order for both sides."""
    return sorted(name for name in names if "running_" not in name)


def flat(arrays: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """The arrays of these names as one vector."""
    return np.concatenate([np.ravel(arrays[name]) for name in names])
