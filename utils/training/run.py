"""A training run: epochs, evaluation, log and checkpoints, interrupted and resumed at will."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from evaluation import THRESHOLD
from model import build_model
from utils import places
from utils.checkpoint.weights import (
    find_not_finite,
    get_weights,
    load_weights,
    read_meta,
    save_weights,
)
from utils.data.datasets import Split, check_training_size, load_splits, num_train_batches
from utils.errors import UserError
from utils.files import atomic_path, keep_as, only_one, remove_leftovers
from utils.optim import Adam, MultiStepLR
from utils.recipe import GAMMA, settle
from utils.runtime import BF16, precision, ranks, set_seed
from utils.training.engine import Interrupted, evaluate, train_one_epoch
from utils.training.logs import METRICS, EpochRecord, best_epochs, log_time, write_log
from utils.training.progress import Pace, progress_line
from utils.training.resume import STARTED, SavedRun, goes_on_in, newest_run, read_run, run_in

SAVED_EVERY = 60  # seconds, of several ranks: any of them, or its host, may be gone at any time


@dataclasses.dataclass(frozen=True)
class Options:
    """Where a run reads and writes and when it is scored; `Run.hold_conditions` looks at the rest.

    Attributes:
        dataset_dir: the dataset lies in `<dataset_dir>/<dataset_name>`.
        output_dir: log and checkpoints go below it.
        num_workers: threads that decode images.
        eval_every: the test list is scored after every so many epochs,
        eval_last: and after each of the last so many.
        threshold: of the scores, a pixel is a target above it.
        skip_bad: whether images and masks that cannot be used are left out, not refused.
    """

    dataset_dir: str | Path
    output_dir: str | Path
    num_workers: int = 4
    eval_every: int = 1
    eval_last: int = 1
    threshold: float = THRESHOLD
    skip_bad: bool | None = False

    def evaluates(self, epoch: int, epochs: int) -> bool:
        """Whether the test list is scored after this of so many epochs."""
        return epoch % self.eval_every == 0 or epochs - epoch < self.eval_last


class StopRequest:
    """Becomes true by Ctrl-C, SIGTERM or the end of the time given; a second signal ends at once.

    Of several ranks it is enough that one is asked; SIGUSR1 does it there as well, which mpirun
    hands on without ending them itself.

    A context manager: the handlers before it come back at its end.
    """

    def __init__(self, minutes: float | None = None):
        self.signals = [signal.SIGINT, signal.SIGTERM]
        if ranks.size() > 1:
            self.signals.append(signal.SIGUSR1)
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.signal: int | None = None

    def __enter__(self) -> StopRequest:
        self.before = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for other in self.signals:
            signal.signal(other, signal.SIG_DFL)

    def check(self) -> None:
        """Raises Interrupted if the run is to stop; on all ranks at the same call."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        asked, late = zip(*ranks.gather((self.signal or 0, late)))
        self.signal = max(asked) or None
        if self.signal or any(late):
            raise Interrupted

    @property
    def status(self) -> int:
        """The exit status: 0 at the end of the time given, else the shell's 128 + signal."""
        return 128 + self.signal if self.signal else 0


class Run:
    """The state of one training run; `train` drives it.

    Args:
        model_name: of the network.
        dataset_name: of the dataset.
        output_dir: log and checkpoints go below it.
        recipe: values for the fields of `Recipe`; None takes the default, or the resumed run's.
        resume: None starts anew, "last" continues from the model's last checkpoint that can be
            read, else from the path given.
        weights: a new run starts from the weights of this file, in place of random ones.

    Raises:
        UserError: nothing to resume, or it belongs to another run; weights that do not fit.
    """

    def __init__(
        self,
        model_name: str,
        dataset_name: str,
        output_dir: str | Path,
        recipe: Mapping[str, Any],
        resume: str | Path | None = None,
        weights: str | Path | None = None,
    ):
        self.model_name, self.dataset_name = model_name, dataset_name
        self.folder = places.checkpoint_folder(output_dir, dataset_name, model_name)
        self.history: list[EpochRecord] = []
        self.losses: list[float] = []  # of the epoch under way
        self.resumed = saved = self._find_checkpoint(resume) if resume else None
        self.recipe = settle(recipe, saved.recipe if saved else None)

        set_seed(self.recipe.seed)
        self.net = build_model(model_name)
        self.optimizer = Adam(self.net.parameters(), self.recipe.lr)
        self.scheduler = MultiStepLR(self.optimizer, self.recipe.milestones, GAMMA)
        if saved:
            try:
                load_weights(self.net, saved.weights)
                self.optimizer.load_state_dict(saved.optimizer)
                self.scheduler.load_state_dict(saved.meta["scheduler"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{saved.path}: cannot be resumed ({error}); take another "
                                "checkpoint") from error
            self.history, self.losses = [*saved.history], [*saved.meta["losses"]]
        elif weights:
            load_weights(self.net, weights)
        self.weights = saved.meta.get("weights") if saved else weights and str(weights)
        self.started = saved.meta["started"] if saved else time.strftime(STARTED)
        # Only what could be read, or was written, is worth to be kept when the next one is saved.
        self.last_is_whole = bool(saved) and saved.path == self.folder / places.LAST
        self.log_path = places.log_file(output_dir, dataset_name, model_name, self.started)
        self.saved_at = time.monotonic()
        self.step_ends: list[tuple[float, int]] = []  # of `Pace.measure`
        self.conditions: dict[str, Any] = {**saved.meta.get("conditions", {})} if saved else {}

    def _find_checkpoint(self, resume: str | Path) -> SavedRun:
        saved = newest_run(self.folder) if resume == "last" else read_run(resume)
        if saved is None:
            raise UserError(
                f"{self.folder / places.LAST}: nothing to resume; start without --resume")
        for key, value in (("model", self.model_name), ("dataset", self.dataset_name)):
            if saved.meta[key] != value:
                raise UserError(f"{saved.path}: is a run of {key} {saved.meta[key]}, not {value}")
        if not goes_on_in(saved.meta, precision()):
            way = "with" if precision() != BF16 else "without"
            raise UserError(f"{saved.path}: is a run {way} --precision {BF16}: go on {way} it")
        return saved

    @property
    def epochs_done(self) -> int:
        """Complete ones, their evaluation included."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord | None:
        """The record of the epoch with the highest mIoU so far, or None."""
        return best_epochs(self.history).get("mIoU")

    def describe(self) -> str:
        """Network, dataset and recipe in one line, the head of the log."""
        line = f"{self.model_name} on {self.dataset_name}: {self.recipe.describe()}"
        return line + (f", from the weights {self.weights}" if self.weights else "")

    def check_ranks(self, splits: Sequence[Split] = ()) -> None:
        """Raises UserError unless the run, and the images given, are the same on all ranks."""
        if ranks.size() == 1:
            return
        digest = hashlib.sha256(repr((self.recipe, self.epochs_done, self.losses)).encode())
        weights = [*get_weights(self.net).values(), *self.optimizer.state_dict().values()]
        for array in chain(weights, *(split.images + split.masks for split in splits)):
            digest.update(np.ascontiguousarray(array))
        ranks.check_same(digest.digest(), "images or weights")

    def hold_conditions(self, splits: Sequence[Split], threshold: float) -> None:
        """Keeps what, beside the recipe, decides the result; a run that goes on must have the same.

        Raises:
            UserError: it was begun with other images, or scored at another threshold.
        """
        for split in splits:
            digest = hashlib.sha256("\n".join(split.names).encode("utf-8", "surrogateescape"))
            self.conditions[split.split] = digest.hexdigest()
        self.conditions["threshold"] = threshold
        saved = self.resumed
        for name, value in (saved.meta.get("conditions", {}) if saved else {}).items():
            if value != self.conditions.get(name):
                what = (f"scored at --threshold {value}" if name == "threshold" else
                        f"begun with other {name} images")
                raise UserError(f"{saved.path}: was {what}; go on with the same, or start anew "
                                "without --resume")

    def begin(self) -> None:
        """Prepares the folder, which nobody else may use, and says how the run begins.

        Raises:
            UserError: another process has trained on since the checkpoint was read.
        """
        for path in (self.folder / places.BEST, self.folder / places.LAST, self.log_path):
            remove_leftovers(path)
        saved = self.resumed
        if saved:
            newest = newest_run(self.folder) if saved.damaged or self.last_is_whole else saved
            if newest and newest.progress != saved.progress:
                raise UserError(f"{saved.path}: another training has gone on from it meanwhile; "
                                "run the command again")
            if saved.damaged:
                print(f"{saved.damaged}; so from the checkpoint before, {saved.path}")
            if self.history or self.losses:
                print(f"resumed after epoch {self.epochs_done} and {len(self.losses)} batches")
            if self.history:  # the log may have been lost
                write_log(self.log_path, self.history, self.describe())
        earlier = self.keep_earlier_run()
        if earlier:
            print(f"the checkpoints of an earlier run are now in {earlier}")
        if self.best and not (self.folder / places.BEST).is_file():
            self._bring_best(saved.path.with_name(places.BEST))

    def _bring_best(self, path: Path) -> None:
        """Copies the best weights so far from beside a checkpoint of another folder, if there."""
        meta = read_meta(path) if path.is_file() else {}
        if meta.get("started") == self.started and len(meta["history"]) == self.best.epoch:
            with atomic_path(self.folder / places.BEST, durable=True) as temporary:
                shutil.copyfile(path, temporary)
        else:
            print(f"{path}: does not hold the best weights so far, of epoch {self.best.epoch}; "
                  "there is no best.npz until an epoch is better")

    def keep_earlier_run(self) -> Path | None:
        """Moves the checkpoints of an earlier run aside; returns the folder, or None."""
        started = run_in(self.folder)
        if started in (None, self.started):
            return None
        earlier = self.folder / f"earlier_{started}"
        earlier.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.npz"):
            path.replace(earlier / path.name)
        return earlier

    def _meta(self) -> dict[str, Any]:
        """What stands beside the weights in every checkpoint."""
        return {
            "model": self.model_name, "dataset": self.dataset_name,
            "recipe": dataclasses.asdict(self.recipe), "started": self.started,
            "precision": precision(), "conditions": self.conditions, "weights": self.weights,
            "history": [dataclasses.asdict(record) for record in self.history],
        }

    def save_best(self) -> None:
        """Writes best.npz: the weights, and how they were trained."""
        if ranks.first():
            save_weights(self.net, self.folder / places.BEST, self._meta())

    def save_last(self) -> None:
        """Writes last.npz: all that `--resume` needs. The one before becomes before.npz.

        Raises:
            UserError: a number is not finite; nothing is written then.
        """
        if not ranks.first():
            return
        last = self.folder / places.LAST
        meta = {**self._meta(), "scheduler": self.scheduler.state_dict(), "losses": self.losses}
        optimizer = self.optimizer.state_dict()
        broken = find_not_finite(optimizer)
        if broken:  # of the weights, `save_weights` says it
            raise UserError(f"{last}: not written, Adam's {broken} is not finite; try a lower --lr")
        if self.last_is_whole and last.is_file():
            keep_as(last, self.folder / places.BEFORE)
        save_weights(self.net, last, meta, optimizer)
        self.last_is_whole, self.saved_at = True, time.monotonic()

    def run_epoch(
        self,
        train_split: Split,
        test_split: Split,
        evaluated: bool,
        threshold: float,
        check_stop: Callable[[], None],
    ) -> EpochRecord:
        """One epoch (or the rest of one), its evaluation, its log entry, its checkpoints.

        Raises:
            Interrupted: by `check_stop`; `save_last` then keeps what is done.
        """
        epoch = self.epochs_done + 1
        self.step_ends = [(time.monotonic(), len(self.losses))]

        def after_steps() -> None:
            self.step_ends.append((time.monotonic(), len(self.losses)))
            check_stop()
            if ranks.size() > 1 and time.monotonic() - self.saved_at > SAVED_EVERY:
                self.save_last()

        train_one_epoch(self.net, self.optimizer, train_split, self.recipe, epoch, self.losses,
                        after_steps)
        self.check_ranks()
        record = EpochRecord(epoch, sum(self.losses) / len(self.losses), log_time())
        if evaluated:
            scores = evaluate(self.net, test_split, self.recipe.batch_size, threshold,
                              check_stop).compute()
            record = dataclasses.replace(record, **{name: scores[name] for name in METRICS},
                                         strict=scores["strict"])
        self.history.append(record)
        self.losses = []
        self.scheduler.step()
        if self.best is record:
            self.save_best()
        if ranks.first():
            write_log(self.log_path, self.history, self.describe())
        self.save_last()
        return record


def train(
    model_name: str,
    dataset_name: str,
    recipe: Mapping[str, Any],
    options: Options,
    stop: StopRequest,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
) -> bool:
    """Trains one network to the end of its recipe, or until it is stopped.

    Args:
        recipe, resume, weights: of `Run`.

    Returns:
        Whether the run came to its end; False if it was stopped, and saved, before.

    Raises:
        UserError: nothing to resume, a bad dataset, or a loss that is not finite.
    """
    run = Run(model_name, dataset_name, options.output_dir, recipe, resume, weights)
    splits = load_splits(options.dataset_dir, dataset_name, num_workers=options.num_workers,
                         skip_bad=options.skip_bad)
    steps = num_train_batches(splits[0], run.recipe.batch_size)
    check_training_size(splits[0], run.recipe.image_size, run.recipe.crop)
    run.hold_conditions(splits, options.threshold)
    for split in splits:
        print(split.describe())
    parameters = sum(p.numel() for p in run.optimizer.parameters)
    print(f"{run.describe()}; {parameters:,} parameters, {steps} batches an epoch; "
          f"log {run.log_path}, weights {run.folder}", flush=True)
    run.check_ranks(splits)
    with only_one(run.folder) if ranks.first() else contextlib.nullcontext():
        if ranks.first():
            run.begin()
        pace = Pace(steps)
        try:
            while run.epochs_done < run.recipe.epochs:
                began = time.monotonic()
                evaluated = options.evaluates(run.epochs_done + 1, run.recipe.epochs)
                record = run.run_epoch(*splits, evaluated, options.threshold, stop.check)
                seconds = time.monotonic() - began
                pace.measure(run.step_ends, evaluated)
                left = pace.left(record.epoch, run.recipe.epochs, options.evaluates)
                print(progress_line(record, run.best, run.recipe.epochs, seconds, left),
                      flush=True)
        except Interrupted:
            run.save_last()
            print(
                f"stopped in epoch {run.epochs_done + 1} after {len(run.losses)} of {steps} "
                "batches, all of it saved; the same command goes on (train_device0.py with "
                "--resume)"
            )
            return False
    print(f"finished: {run.folder}, {run.log_path}")
    return True
