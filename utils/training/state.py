"""The state of one training run in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from model import build_model
from utils.checkpoint.weights import get_weights, load_weights
from utils.datasets import ImageList
from utils.errors import UserError
from utils.optim import Adam, MultiStepLR
from utils.recipe import GAMMA, Recipe
from utils.runtime import precision, ranks, set_seed
from utils.training.logs import METRICS, EpochRecord, best_epochs, log_time
from utils.training.store import STARTED, SavedRun


class TrainingState:
    """Network, optimiser and schedule of a run, and what the run has done so far.

    Args:
        recipe: of the run.
        saved: the checkpoint to go on from; None begins a new run.
        weights: a file of weights from which a new run starts, in place of random weights.

    Attributes:
        history: one record for each complete epoch, its evaluation included.
        losses: one loss for each finished step of the epoch under way.
        conditions: what decides the result beside the recipe; see `check_conditions`.
        resumed: path of the checkpoint that the run goes on from, or None.

    Raises:
        UserError: checkpoint or weights do not fit the network.
    """

    def __init__(
        self,
        model_name: str,
        dataset_name: str,
        recipe: Recipe,
        saved: SavedRun | None = None,
        weights: str | Path | None = None,
    ):
        self.model_name, self.dataset_name, self.recipe = model_name, dataset_name, recipe
        set_seed(recipe.seed)
        self.net = build_model(model_name)
        self.optimizer = Adam(self.net.parameters(), recipe.lr)
        self.scheduler = MultiStepLR(self.optimizer, recipe.milestones, GAMMA)
        self.history: list[EpochRecord] = []
        self.losses: list[float] = []
        self.conditions: dict[str, Any] = {}
        self.started = time.strftime(STARTED)
        self.weights = weights and str(weights)
        self.resumed = saved and saved.path
        if saved:
            self._restore(saved)
        elif weights:
            load_weights(self.net, weights)

    def _restore(self, saved: SavedRun) -> None:
        try:
            load_weights(self.net, saved.weights)
            self.optimizer.load_state_dict(saved.optimizer)
            self.scheduler.load_state_dict(saved.meta["scheduler"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{saved.path}: cannot be resumed ({error}); take another "
                            "checkpoint") from error
        self.history, self.losses = [*saved.history], [*saved.meta["losses"]]
        self.conditions = {**saved.meta.get("conditions", {})}
        self.started, self.weights = saved.meta["started"], saved.meta.get("weights")

    @property
    def epochs_done(self) -> int:
        """Number of complete epochs."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord | None:
        """The record of the epoch with the highest mIoU so far, or None."""
        return best_epochs(self.history).get("mIoU")

    def describe(self) -> str:
        """Network, dataset and recipe in one line, the head of the log."""
        line = f"{self.model_name} on {self.dataset_name}: {self.recipe.describe()}"
        return line + (f", from the weights {self.weights}" if self.weights else "")

    def meta(self) -> dict[str, Any]:
        """What every checkpoint says about the run."""
        return {
            "model": self.model_name, "dataset": self.dataset_name,
            "recipe": dataclasses.asdict(self.recipe), "started": self.started,
            "precision": precision(), "conditions": self.conditions, "weights": self.weights,
            "history": [dataclasses.asdict(record) for record in self.history],
        }

    def finish_epoch(self, scores: dict[str, Any] | None) -> None:
        """Appends the record of an epoch to the history, with `scores` if it was evaluated."""
        record = EpochRecord(self.epochs_done + 1, sum(self.losses) / len(self.losses), log_time())
        if scores:
            record = dataclasses.replace(record, **{name: scores[name] for name in METRICS},
                                         strict=scores["strict"])
        self.history.append(record)
        self.losses = []
        self.scheduler.step()

    def check_conditions(self, splits: Sequence[ImageList], threshold: float) -> None:
        """Sets `conditions`, and compares them with the conditions of the saved run.

        Raises:
            UserError: the run was begun with other images, or scored at another threshold.
        """
        before = self.conditions
        self.conditions = {
            split.name: hashlib.sha256(
                "\n".join(split.names).encode("utf-8", "surrogateescape")).hexdigest()
            for split in splits}
        self.conditions["threshold"] = threshold
        for name, value in before.items():
            if value != self.conditions.get(name):
                problem = (f"was scored at --threshold {value}; take that threshold"
                           if name == "threshold" else
                           f"this run has another list of {name} images; restore that list")
                raise UserError(f"{self.resumed}: {problem}, or start anew without --resume (for "
                                f"run_train.py move {Path(self.resumed).parent} away)")

    def check_ranks(self, splits: Sequence[ImageList] = ()) -> None:
        """Raises a UserError unless the run and the images given are equal on all ranks."""
        if ranks.size() == 1:
            return
        digest = hashlib.sha256(repr((self.recipe, self.epochs_done, self.losses)).encode())
        weights = [*get_weights(self.net).values(), *self.optimizer.state_dict().values()]
        for array in chain(weights, *(split.images + split.masks for split in splits)):
            digest.update(np.ascontiguousarray(array))
        ranks.check_same(digest.digest(), "images or weights")
