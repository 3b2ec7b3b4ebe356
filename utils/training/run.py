"""Trains a network from its first epoch to its last; a run can be stopped and resumed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import THRESHOLD
from utils.datasets import ImageList, load_splits, num_train_batches
from utils.recipe import resolve_recipe
from utils.training.engine import evaluation_steps, merge_counts, training_steps
from utils.training.progress import Pace, progress_line
from utils.training.state import TrainingState
from utils.training.stop import StopRequest
from utils.training.store import Store


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Where a run reads and writes, and when it is scored.

    Attributes:
        dataset_dir: the dataset lies in `<dataset_dir>/<dataset_name>`.
        output_dir: log and checkpoints go below it.
        num_workers: threads that decode images.
        eval_every: the test list is scored after every `eval_every`-th epoch.
        eval_last: it is also scored after each of the last `eval_last` epochs.
        threshold: a pixel above it counts as target; None: that of the resumed run, or
            `THRESHOLD`.
        skip_bad: True leaves out images and masks that cannot be used; False refuses them.
    """

    dataset_dir: str | Path
    output_dir: str | Path
    num_workers: int = 4
    eval_every: int = 1
    eval_last: int = 1
    threshold: float | None = None
    skip_bad: bool | None = False

    def evaluates(self, epoch: int, epochs: int) -> bool:
        """True if the test list is scored after this epoch of a run of `epochs`."""
        return epoch % self.eval_every == 0 or epochs - epoch < self.eval_last


def train(
    model_name: str,
    dataset_name: str,
    given: Mapping[str, Any],
    options: TrainingOptions,
    stop: StopRequest,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
) -> bool:
    """Trains one network to the end of its recipe, or until it is stopped.

    Args:
        given: values for the fields of `Recipe`; None takes the default, or the resumed run's.
        resume: None begins a new run, "last" goes on with the model's newest checkpoint, a path
            with that checkpoint.
        weights: a file of weights from which a new run starts, in place of random weights.

    Returns:
        True if the run came to its end; False if it was stopped and saved before.

    Raises:
        UserError: nothing to resume, a bad dataset, or a loss that is not finite.
    """
    store = Store(options.output_dir, dataset_name, model_name)
    saved = store.find(resume) if resume else None
    recipe = resolve_recipe(given, saved and saved.recipe)
    state = TrainingState(model_name, dataset_name, recipe, saved, weights)
    if options.threshold is None:
        threshold = state.conditions.get("threshold", THRESHOLD)
        options = dataclasses.replace(options, threshold=threshold)
    splits = load_splits(options.dataset_dir, dataset_name, num_workers=options.num_workers,
                         skip_bad=options.skip_bad)
    steps = num_train_batches(splits[0], recipe)
    state.check_conditions(splits, options.threshold)
    for split in splits:
        print(split.describe())
    parameters = sum(p.numel() for p in state.optimizer.parameters)
    print(f"{state.describe()}; {parameters:,} parameters, {steps} batches an epoch; "
          f"log {store.log_path(state)}, weights {store.folder}", flush=True)
    state.check_ranks(splits)
    pace = Pace(steps)
    with store.opened(state, saved):
        while state.epochs_done < recipe.epochs:
            began = time.monotonic()
            if not train_epoch(state, store, splits, options, stop, pace):
                store.save_last(state)
                print(f"stopped in epoch {state.epochs_done + 1} after {len(state.losses)} of "
                      f"{steps} batches, all of it saved; run the command again to go on "
                      "(train_device0.py with --resume, without a path)")
                return False
            store.save_epoch(state)
            left = pace.left(state.epochs_done, recipe.epochs, options.evaluates)
            print(progress_line(state.history[-1], state.best, recipe.epochs,
                                time.monotonic() - began, left), flush=True)
    print(f"finished: {store.folder}, {store.log_path(state)}")
    return True


def train_epoch(
    state: TrainingState,
    store: Store,
    splits: Sequence[ImageList],
    options: TrainingOptions,
    stop: StopRequest,
    pace: Pace,
) -> bool:
    """Trains and scores one epoch, or the rest of it.

    Returns:
        True if the epoch is complete; False if it was stopped between two steps.
    """
    recipe, epoch = state.recipe, state.epochs_done + 1
    train_split, test_split = splits
    pace.begin(len(state.losses))
    for losses in training_steps(state.net, state.optimizer, train_split, recipe, epoch,
                                 state.losses):
        state.losses += losses
        pace.steps_done(len(state.losses))
        if stop.requested():
            return False
        store.save_step(state)
    state.check_ranks()
    scores = None
    if options.evaluates(epoch, recipe.epochs):
        counts = []
        for each in evaluation_steps(state.net, test_split, recipe.batch_size, options.threshold):
            counts.append(each)
            if stop.requested():
                return False
        scores = merge_counts(counts, options.threshold).compute()
    pace.epoch_done(evaluated=scores is not None)
    state.finish_epoch(scores)
    return True
