"""The files of a training run: checkpoints and log, written and found again.

What `train_device0.py` does with the files of an earlier run:

    last.npz      before.npz    without --resume                   with --resume
    -             -             begins a run                       refuses: nothing to resume
    whole         any           begins a run; the earlier files    goes on from last.npz
                                move to earlier_<time>/
    bad or -      whole         as above                           goes on from before.npz, says so
    bad           bad or -      refuses                            refuses

With --resume, a flag that differs from the run's recipe is refused. With --resume and the path of
an older checkpoint of this run, the newer files move to earlier_<time>_<epochs>_<steps>/. A
best.npz that is not the best of the log moves to earlier_<time>_best/. No file that was moved is
overwritten: a second folder of one name ends in _2.
`run_train.py` adds --resume by `run_status`: where such a flag differs, it begins a run.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.checkpoint.weights import (
    OPTIMIZER,
    find_not_finite,
    read_checkpoint,
    read_meta,
    save_weights,
)
from utils.errors import UserError
from utils.files import atomic_path, locked, remove_leftovers
from utils.paths import BEFORE, BEST, LAST, Paths
from utils.recipe import Recipe, recipe_of, resolve_recipe
from utils.runtime import ranks
from utils.training.logs import EpochRecord, write_log

if TYPE_CHECKING:
    from utils.training.state import TrainingState

STARTED = "%Y-%m-%d_%H-%M-%S"  # the name of a run: the time at which it began
_STARTED = re.compile(r"[\w.-]+")  # it becomes a part of file names
SAVED_EVERY = 60  # seconds; under mpirun only, where any host may fail at any time


class SavedRun(NamedTuple):
    """A run as a checkpoint holds it.

    Attributes:
        path: of the checkpoint.
        meta: what the checkpoint says about the run.
        recipe: of the run.
        history: records of its complete epochs.
        weights: official name → array.
        optimizer: the state of Adam.
        damaged: why a later checkpoint could not be read; "" if there is none.
    """

    path: Path
    meta: dict[str, Any]
    recipe: Recipe
    history: list[EpochRecord]
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    damaged: str = ""

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers of complete epochs and of finished steps in the epoch under way."""
        return len(self.history), len(self.meta["losses"])


def read_run(path: str | Path) -> SavedRun:
    """Reads a checkpoint to go on from, and checks everything that does not need the network.

    Raises:
        UserError: the file cannot be read, holds only weights, or is not from a run of ours.
    """
    path = Path(path)
    arrays, meta = read_checkpoint(path)
    if "scheduler" not in meta:
        raise UserError(f"{path}: holds weights only, not a run to resume; take a last.npz")
    optimizer = {name[len(OPTIMIZER):]: array for name, array in arrays.items()
                 if name.startswith(OPTIMIZER)}
    try:
        recipe = recipe_of(meta)
        history = [EpochRecord(**record) for record in meta["history"]]
        broken = find_not_finite(optimizer)
        for what, fine in {
            "recipe": all(type(getattr(recipe, name)) is int
                          for name in ("epochs", "batch_size", "seed", "image_size")),
            "history": [record.epoch for record in history] == [*range(1, len(history) + 1)],
            "losses": all(map(math.isfinite, meta["losses"])),
            "started": _STARTED.fullmatch(meta["started"]),
            "model": all(isinstance(meta[name], str) for name in ("model", "dataset")),
            "conditions": isinstance(meta.get("conditions", {}), dict),
            "scheduler": (len(meta["scheduler"]) == 4
                          and math.isfinite(meta["scheduler"]["base_lr"])),
            f"{OPTIMIZER}{broken}, which is not finite": not broken,
        }.items():
            if not fine:
                raise ValueError(what)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: damaged, or of another program: "
                        f"{' '.join(str(error).split())[:80]}; take another checkpoint") from error
    return SavedRun(path, meta, recipe, history, arrays, optimizer)


class Store:
    """Checkpoints and log of one network trained on one dataset.

    Under mpirun only the first rank writes.

    Args:
        output_dir: log and checkpoints go below it.
    """

    def __init__(self, output_dir: str | Path, dataset_name: str, model_name: str):
        self.output_dir = output_dir
        self.dataset_name, self.model_name = dataset_name, model_name
        self.folder = Paths(output_dir).checkpoints(dataset_name, model_name)
        self.last, self.before, self.best = (
            self.folder / name for name in (LAST, BEFORE, BEST))
        self.new_best = self.folder / f"new_{BEST}"  # for a moment
        # before.npz must be whole: last.npz becomes before.npz only if we read or wrote it.
        self.last_is_whole = False
        self.saved_at = time.monotonic()

    def log_path(self, state: TrainingState) -> Path:
        """The path of a run's log."""
        return Paths(self.output_dir).log(self.dataset_name, self.model_name, state.started)

    # ------------------------------------------------------------------------- reading

    def newest_run(self) -> SavedRun | None:
        """The run of last.npz, or of before.npz if last.npz cannot be read; None without both.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        problems = []
        for path in (self.last, self.before):
            if path.is_file():
                try:
                    return read_run(path)._replace(damaged="; ".join(problems))
                except UserError as problem:
                    problems.append(str(problem))
            elif not problems:
                problems.append(f"{path}: no such file")
        if self.last.is_file() or self.before.is_file():
            raise UserError(f"{problems[0]}, or move {self.folder} away and begin anew")
        return None

    def find(self, resume: str | Path) -> SavedRun:
        """The run to go on with.

        Args:
            resume: "last" for the newest checkpoint of this model, else the path of a checkpoint.

        Raises:
            UserError: there is no such run, or it is of another model or dataset.
        """
        saved = self.newest_run() if resume == "last" else read_run(resume)
        if saved is None:
            raise UserError(f"{self.last}: nothing to resume; start without --resume")
        for key, value in (("model", self.model_name), ("dataset", self.dataset_name)):
            if saved.meta[key] != value:
                raise UserError(f"{saved.path}: is a run of {key} {saved.meta[key]}, not {value}; "
                                "take another checkpoint")
        self.last_is_whole = saved.path == self.last
        return saved

    def _started_by_best(self) -> str | None:
        """When the run of best.npz began, else when the file was written; None if it is missing."""
        if not self.best.is_file():
            return None
        with contextlib.suppress(UserError, KeyError, TypeError):
            started = read_meta(self.best)["started"]
            if _STARTED.fullmatch(started):
                return started
        return time.strftime(STARTED, time.localtime(self.best.stat().st_mtime))

    # ------------------------------------------------------------------------- writing

    @contextlib.contextmanager
    def opened(self, state: TrainingState, saved: SavedRun | None) -> Iterator[None]:
        """Locks the folder for a run, prepares it, and prints how the run begins.

        Args:
            saved: the checkpoint that the run goes on from.

        Raises:
            UserError: another process trains into the folder, or has gone on with the run.
        """
        if not ranks.is_main():
            yield
            return
        with locked(self.folder):
            self._begin(state, saved)
            yield

    def _begin(self, state: TrainingState, saved: SavedRun | None) -> None:
        for path in (self.best, self.new_best, self.last, self.log_path(state)):
            remove_leftovers(path)
        newest, bests = self.newest_run(), []
        started = newest.meta["started"] if newest else self._started_by_best()
        if saved:
            was_newest = saved.damaged or self.last_is_whole
            if newest and was_newest and newest.progress != saved.progress:
                raise UserError(f"{saved.path}: another process went on with this run while this "
                                "one was starting; run the command again")
            if saved.damaged:
                print(f"{saved.damaged}; going on from the checkpoint before, {saved.path}")
            if state.history or state.losses:
                print(f"resumed after epoch {state.epochs_done} and {len(state.losses)} batches")
            bests.append(saved.path.with_name(BEST))
        if started not in (None, state.started):
            self._move_aside(f"earlier_{started}")
        elif saved and newest and newest.progress > saved.progress:
            # An older checkpoint of this run: what the run has done since is kept.
            epochs, steps = newest.progress
            earlier = self._move_aside(f"earlier_{started}_{epochs}_{steps}", self.log_path(state))
            bests.append(earlier / BEST)
            self.save_last(state)
        if state.history:  # the log may have been lost
            write_log(self.log_path(state), state.history, state.describe())
        if state.best:
            self._find_best(bests, state)
        self.new_best.unlink(missing_ok=True)

    def _move_aside(self, name: str, log: Path | None = None, pattern: str = "*") -> Path:
        """Moves checkpoints, and their cards, into a folder of this name; copies a log there.

        A folder that has such files already is left as it is, and one with a number is made.
        """
        files = [path for kind in ("npz", "md") for path in self.folder.glob(f"{pattern}.{kind}")]
        for number in count(1):
            earlier = self.folder / (name if number == 1 else f"{name}_{number}")
            if not any((earlier / path.name).exists() for path in files):
                break
        earlier.mkdir(parents=True, exist_ok=True)
        for path in files:
            path.replace(earlier / path.name)
        if log and log.is_file():
            shutil.copy(log, earlier)
        print(f"the checkpoints of an earlier run are now in {earlier}")
        return earlier

    def _find_best(self, paths: Sequence[Path], state: TrainingState) -> None:
        """Makes best.npz the best weights of this run; takes them from `paths` if need be."""
        def holds_them(path: Path) -> bool:
            with contextlib.suppress(UserError):  # missing or damaged
                meta = read_meta(path)
                return (meta.get("started") == state.started
                        and len(meta["history"]) == state.best.epoch)
            return False

        if holds_them(self.best):
            return
        if holds_them(self.new_best):  # killed before it took its name
            self.new_best.replace(self.best)
            return
        if self.best.is_file():  # of another epoch
            self._move_aside(f"earlier_{state.started}_best", pattern="best")
        source = next(filter(holds_them, paths), None)
        if source:
            with atomic_path(self.best, durable=True) as temporary:
                shutil.copyfile(source, temporary)
        elif state.best is state.history[-1] and not state.losses:
            save_weights(state.net, self.best, state.meta())
        else:
            print(f"{paths[0]}: does not hold the best weights so far, of epoch "
                  f"{state.best.epoch}; there is no best.npz until an epoch is better")

    def save_last(self, state: TrainingState) -> None:
        """Writes last.npz, all that `--resume` needs; the last.npz before becomes before.npz.

        Raises:
            UserError: a number is not finite; last.npz stays as it was.
        """
        if not ranks.is_main():
            return
        meta = {**state.meta(), "scheduler": state.scheduler.state_dict(), "losses": state.losses}
        optimizer = state.optimizer.state_dict()
        broken = find_not_finite(optimizer)
        if broken:  # `save_weights` checks the weights
            raise UserError(f"{self.last}: not written, Adam's {broken} is not finite; try a "
                            "lower --lr")
        if self.last_is_whole and self.last.is_file():
            self._keep_last()
        save_weights(state.net, self.last, meta, optimizer)
        self.last_is_whole, self.saved_at = True, time.monotonic()

    def _keep_last(self) -> None:
        """Makes before.npz a second name of last.npz, or its copy if there are no hard links."""
        # A kill in between may leave no whole before.npz, but last.npz is whole.
        self.before.unlink(missing_ok=True)
        try:
            os.link(self.last, self.before)
        except OSError:
            shutil.copyfile(self.last, self.before)

    def save_step(self, state: TrainingState) -> None:
        """Writes last.npz in mid-epoch under mpirun, once a minute."""
        if ranks.size() > 1 and time.monotonic() - self.saved_at > SAVED_EVERY:
            self.save_last(state)

    def save_epoch(self, state: TrainingState) -> None:
        """Writes log and last.npz after an epoch, and best.npz if it was the best epoch so far.

        The best weights take their name last, so that best.npz is the best of what last.npz says
        also when the disk is full. After a kill just before, `_begin` gives them their name.
        """
        if not ranks.is_main():
            return
        is_best = state.best is state.history[-1]
        if is_best:
            save_weights(state.net, self.new_best, state.meta())
        write_log(self.log_path(state), state.history, state.describe())
        self.save_last(state)
        if is_best:
            self.new_best.replace(self.best)


class RunStatus(enum.Enum):
    """How a training that the user asks for relates to the last checkpoint."""

    NEW = enum.auto()  # there is no checkpoint, or it has another recipe or threshold
    RESUME = enum.auto()  # the checkpoint has epochs left
    FINISHED = enum.auto()


def run_status(
    last: Mapping[str, Any], given: Mapping[str, Any], threshold: float | None = None
) -> RunStatus:
    """Compares a recipe, and the threshold of scores, with what the last checkpoint says.

    Args:
        last: from `last_run`, or anything with its `recipe`, `history` and `scheduler`.
        given: values for the fields of `Recipe`; None (or no entry) is a flag that was not given.
        threshold: in the same way.
    """
    if last and threshold in (None, last.get("conditions", {}).get("threshold", threshold)):
        with contextlib.suppress(UserError):  # a given value differs from that run's
            epochs = resolve_recipe(given, recipe_of(last)).epochs
            return RunStatus.FINISHED if len(last["history"]) >= epochs else RunStatus.RESUME
    return RunStatus.NEW


def last_run(output_dir: str | Path, dataset_name: str, model_name: str) -> dict[str, Any]:
    """What a model's newest checkpoint says about its run; empty if no checkpoint can be read."""
    try:
        run = Store(output_dir, dataset_name, model_name).newest_run()
    except UserError:  # the training itself will say so
        return {}
    return run.meta if run else {}
