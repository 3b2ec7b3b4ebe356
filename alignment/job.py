"""What the two sides are told and where they meet: NumPy alone, read by both."""

from __future__ import annotations

import itertools
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.cli import ROOT
from utils.data.datasets import Split, load_split, train_batches
from utils.processes import run

RECIPE = ("batch_size", "epochs", "lr", "seed", "image_size")
RUN_RECIPE = (*RECIPE, "milestones")  # of whole runs
FRAMEWORKS = ("Jittor", "Pytorch")  # the folders of whole runs


def start(module: str, task: str, **values) -> int:
    """Runs `task` of `alignment.<module>` in a process of its own.

    Returns:
        Its exit status; what is wrong it has said itself, unless it was killed. 130 after Ctrl-C.
    """
    text = json.dumps({**values, "task": task}, default=str)
    status, received = run([sys.executable, "-m", f"alignment.{module}", text], cwd=ROOT)
    if status < 0 and not received:
        print(f"error: {task} of {module} was killed by signal {-status}", file=sys.stderr)
    return 128 + (received or -status) if received or status < 0 else status


def read_job() -> Namespace:
    """The job of this process: the words that `start` was given."""
    return Namespace(**json.loads(sys.argv[1]))


def framework_folder(output_dir: str | Path, dataset_name: str, framework: str) -> Path:
    """Where the whole runs of a framework write: log/ and model/checkpoints/."""
    return Path(output_dir) / "alignment" / dataset_name / framework


def files(job: Namespace) -> Namespace:
    """The files through which the sides meet; `exchange` is gone when both are done."""
    folder = Path(job.output_dir) / "alignment" / job.dataset_name / job.model_name
    exchange = folder / "exchange"
    return Namespace(
        start=folder / "start.npz", comparison=folder / "comparison.json",
        epochs=folder / "epochs.json", exchange=exchange, steps=exchange / "steps.npz",
        captures=[exchange / f"batch_{index}.npz" for index in range(job.batches)],
    )


def training_list(job: Namespace) -> Split:
    """The images that both sides train on."""
    return load_split(job.dataset_dir, job.dataset_name, "train", job.num_workers)


def step_batches(job: Namespace, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first batches of a training with this seed, x and y, without end."""
    for epoch in itertools.count(1):
        for _, x, y in train_batches(split, job.batch_size, job.image_size, job.seed, epoch):
            yield x, y


def trainable(names: list[str]) -> list[str]:
    """Those official names that are parameters, in one order for both sides."""
    return sorted(name for name in names if "running_" not in name)


def flat(arrays: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """The arrays of these names as one vector."""
    return np.concatenate([np.ravel(arrays[name]) for name in names])
