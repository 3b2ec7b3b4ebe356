"""A whole training run of the PyTorch twin, with PyTorch's optimiser and schedule.

Recipe, batches, log and scores come from `utils.training`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alignment.job import Job, framework_folder
from alignment.torch_compare import build, choose_device, describe, read_start, take_step
from evaluation import Evaluator
from utils.datasets import ImageList, load_splits, num_train_batches, test_batches, train_batches
from utils.errors import UserError
from utils.files import atomic_path
from utils.paths import Paths
from utils.recipe import GAMMA
from utils.training.logs import METRICS, EpochRecord, log_time, write_log
from utils.training.run import TrainingOptions
from utils.training.stop import StopRequest
from utils.training.store import STARTED, RunStatus, run_status

PARTS = ("net", "optimizer", "scheduler")  # attributes of `Run` with a state_dict


def train(job: Job) -> int:
    """Trains a whole run: goes on where a run stopped, and does nothing if it is finished.

    Returns:
        The exit status: 0 at its end, 128 + signal if it was stopped and saved before.
    """
    recipe = job.recipe
    folder = framework_folder(job.output_dir, job.dataset_name, "Pytorch")
    last = Paths(folder).checkpoints(job.dataset_name, job.model_name) / "last.pt"
    state = _read(last) if last.is_file() else {}
    now = run_status(state, dataclasses.asdict(recipe))
    if now is RunStatus.FINISHED:
        print(f"{job.model_name}: the {recipe.epochs} epochs of PyTorch are there, {last}")
        return 0
    before, state = state, {} if now is RunStatus.NEW else state
    if state and state.get("compile", False) != job.compile:
        way = "with" if state.get("compile") else "without"
        raise UserError(f"{last}: is a run {way} --compile; go on {way} it, or move it away")
    run = Run(job, state)
    log = Paths(folder).log(job.dataset_name, job.model_name, run.started)
    options = TrainingOptions(job.dataset_dir, folder, job.num_workers, job.eval_every,
                              job.eval_last)
    splits = load_splits(job.dataset_dir, job.dataset_name, num_workers=job.num_workers)
    print(f"{job.model_name}: {describe(run.device)}{', torch.compile' * job.compile}; epochs "
          f"{len(run.history) + 1} to {recipe.epochs}; log {log}", flush=True)
    if before and not state:
        epochs, steps = len(before["history"]), len(before["losses"])
        earlier = last.with_name(f"earlier_{before['started']}_{epochs}_{steps}.pt")
        last.replace(earlier)
        print(f"the checkpoint of an earlier run is now {earlier}")
    with StopRequest() as stop:
        while len(run.history) < recipe.epochs:
            began = time.monotonic()
            evaluated = options.evaluates(len(run.history) + 1, recipe.epochs)
            complete = run.train_epoch(*splits, evaluated, stop)
            if complete:  # before the checkpoint, which says that the run is finished
                write_log(log, run.history, run.describe())
            run.save(last)
            if not complete:
                print(f"stopped in epoch {len(run.history) + 1} after {len(run.losses)} of "
                      f"{num_train_batches(splits[0], recipe)} batches, all of it "
                      "saved; run the command again to go on")
                return stop.status
            record = run.history[-1]
            score = f", mIoU {record.mIoU:.4f}" if evaluated else ""
            print(f"epoch {record.epoch}/{recipe.epochs}: loss {record.loss:.6f}{score}; "
                  f"{time.monotonic() - began:.1f} s", flush=True)
    return 0


class Run:
    """The state of a whole run.

    Args:
        job: of the run.
        state: what `save` has written, or empty for a new run.
    """

    def __init__(self, job: Job, state: Mapping[str, Any]):
        self.job, recipe = job, job.recipe
        self.device = choose_device(_wanted_device(job), job.precision)
        self.layout = torch.channels_last if job.compile else torch.preserve_format
        self.net = build(job.model_name, read_start(job), True, device=self.device)
        self.net.to(memory_format=self.layout)
        self.forward = torch.compile(self.net, dynamic=False) if job.compile else self.net
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.lr)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, recipe.milestones, GAMMA)
        if state:
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])
        self.history = [EpochRecord(**record) for record in state.get("history", ())]
        self.losses = [*state.get("losses", ())]  # of the epoch under way
        self.started = state.get("started") or time.strftime(STARTED)

    def describe(self) -> str:
        """The head of the log."""
        return (f"{self.job.model_name} on {self.job.dataset_name}: "
                f"{self.job.recipe.describe()}; {describe(self.device)}"
                + ", torch.compile, channels_last" * self.job.compile)

    def save(self, path: Path) -> None:
        """Writes all that is needed to go on."""
        with atomic_path(path, durable=True) as temporary:
            torch.save({
                "recipe": self.job.run_recipe(), "started": self.started, "losses": self.losses,
                "history": [dataclasses.asdict(record) for record in self.history],
                "compile": self.job.compile,
                **{name: getattr(self, name).state_dict() for name in PARTS},
            }, temporary)

    def train_epoch(
        self, train_split: ImageList, test_split: ImageList, evaluated: bool, stop: StopRequest
    ) -> bool:
        """Trains one epoch, or the rest of it; False if it was stopped between two steps."""
        epoch = len(self.history) + 1
        if not self._take_steps(train_split, epoch, stop):
            return False
        record = EpochRecord(epoch, sum(self.losses) / len(self.losses), log_time())
        if evaluated:
            evaluator = Evaluator()
            if not self._evaluate(test_split, evaluator, stop):
                return False
            scores = evaluator.compute()
            record = dataclasses.replace(record, strict=scores["strict"],
                                         **{name: float(scores[name]) for name in METRICS})
        self.history.append(record)
        self.losses = []
        self.scheduler.step()
        return True

    def _take_steps(self, split, epoch, stop):
        """Takes the steps of an epoch that `losses` does not have; False if it was stopped."""
        self.net.train()
        recipe, losses = self.job.recipe, self.losses
        batches = train_batches(split, recipe, epoch, start=len(losses))
        total = num_train_batches(split, recipe)
        with tqdm(batches, total=total, initial=len(losses), unit="batch", leave=False,
                  disable=None, desc=f"PyTorch, epoch {epoch}/{recipe.epochs}") as bar:
            for names, x, y in bar:
                # Dropout as a function of seed, epoch and step: nothing to save for resuming.
                torch.manual_seed(recipe.seed * 1_000_003 + epoch * 10_007 + len(losses))
                loss = take_step(self.forward, self.optimizer, x, y, self.device, self.layout)
                if not math.isfinite(loss):
                    raise UserError(f"the loss of PyTorch is not finite in epoch {epoch}, images "
                                    f"{', '.join(names)}; try a lower --lr")
                losses.append(loss)
                bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
                if stop.requested():
                    return False
        return True

    def _evaluate(self, split, evaluator, stop):
        """Feeds the evaluator with the test list; False if it was stopped."""
        self.net.eval()
        with tqdm(total=len(split), unit="image", leave=False, disable=None,
                  desc="evaluating") as bar:
            for indices, x in test_batches(split, self.job.recipe.batch_size):
                with torch.no_grad():
                    x = torch.from_numpy(x).to(self.device, memory_format=self.layout)
                    probabilities = self.forward(x)[:, 0].cpu().numpy()
                for index, probability in zip(indices, probabilities):
                    evaluator.update(probability, split.masks[index])
                bar.update(len(indices))
                if stop.requested():
                    return False
        return True


def _read(path: Path) -> dict[str, Any]:
    """What `Run.save` has written."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"recipe", "started", "losses", "history", *PARTS} <= state.keys():
            raise ValueError("another file of PyTorch")
        return state
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise UserError(f"{path}: damaged, or no checkpoint of this command; move it "
                        "away") from error


def _wanted_device(job: Job) -> str:
    """Jittor's device; if Jittor has not run, a GPU unless --device is cpu."""
    if job.only_pytorch:
        return "cpu" if job.device == "cpu" else "cuda"
    return json.loads(job.comparison_file.read_text())["device"]
