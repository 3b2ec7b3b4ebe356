"""Whether a training that is asked for is a new run, goes on with the last one, or is done."""

from __future__ import annotations

import contextlib
import enum
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import places
from utils.checkpoint.weights import OPTIMIZER, find_not_finite, read_checkpoint, read_meta
from utils.errors import UserError
from utils.recipe import Recipe, recipe_of, same_run, settle
from utils.runtime import BF16
from utils.training.logs import EpochRecord

STARTED = "%Y-%m-%d_%H-%M-%S"  # how a run is named by the time at which it began
_STARTED = re.compile(r"[\w.-]+")  # it becomes a part of file names


class SavedRun(NamedTuple):
    """A run as a checkpoint holds it.

    Attributes:
        path: of the checkpoint.
        meta: what it says of the run.
        recipe: of the run.
        history: its epochs.
        weights: official name → array.
        optimizer: the state of Adam.
        damaged: why the checkpoint after this one could not be taken; "" if there is none.
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
        """Complete epochs, and batches of the one under way."""
        return len(self.history), len(self.meta["losses"])


def read_run(path: str | Path) -> SavedRun:
    """Reads a checkpoint to go on from, and checks all that does not depend on the network.

    Raises:
        UserError: it cannot be read, holds weights only, or says what no run of ours does.
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
        _check(all(type(getattr(recipe, name)) is kind for name, kind in (
            ("epochs", int), ("batch_size", int), ("seed", int), ("image_size", int))), "recipe")
        _check([record.epoch for record in history] == list(range(1, len(history) + 1)), "history")
        _check(all(map(math.isfinite, meta["losses"])), "losses")
        _check(_STARTED.fullmatch(meta["started"]), "started")
        _check(all(isinstance(meta[name], str) for name in ("model", "dataset")), "model")
        _check(isinstance(meta.get("conditions", {}), dict), "conditions")
        _check(len(meta["scheduler"]) == 4 and math.isfinite(meta["scheduler"]["base_lr"]),
               "scheduler")
        broken = find_not_finite(optimizer)
        _check(not broken, f"{OPTIMIZER}{broken}, which is not finite")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: damaged, or of another program: "
                        f"{' '.join(str(error).split())[:80]}; take another checkpoint") from error
    return SavedRun(path, meta, recipe, history, arrays, optimizer)


def _check(fine, what):
    if not fine:
        raise ValueError(what)


def newest_run(folder: str | Path) -> SavedRun | None:
    """The last checkpoint of a model's folder, or that before where the last cannot be read.

    Returns:
        The run, which says in `damaged` if it is not the last; None if there is no checkpoint.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    paths = [Path(folder) / name for name in (places.LAST, places.BEFORE)]
    problems = []
    for path in paths:
        if path.is_file():
            try:
                return read_run(path)._replace(damaged="; ".join(problems))
            except UserError as problem:
                problems.append(str(problem))
        elif not problems:
            problems.append(f"{path}: no such file")
    if any(path.is_file() for path in paths):
        raise UserError(problems[0])
    return None


def run_in(folder: str | Path) -> str | None:
    """When the run began whose checkpoints lie in a model's folder; None if there are none.

    Where only best.npz is left that does not say it, when the file was written.

    Raises:
        UserError: as `newest_run`.
    """
    run = newest_run(folder)
    if run:
        return run.meta["started"]
    best = Path(folder) / places.BEST
    if not best.is_file():
        return None
    with contextlib.suppress(UserError, KeyError, TypeError):
        started = read_meta(best)["started"]
        if _STARTED.fullmatch(started):
            return started
    return time.strftime(STARTED, time.localtime(best.stat().st_mtime))


class Standing(enum.Enum):
    """How a training that is asked for stands to the last checkpoint."""

    NEW = enum.auto()  # there is none, or it is of another recipe
    RESUME = enum.auto()  # the same run, with epochs left
    FINISHED = enum.auto()


def standing(
    last: Mapping[str, Any], given: Mapping[str, Any], precision: str = "default"
) -> Standing:
    """Compares a recipe with what the last checkpoint says.

    Args:
        last: of `last_run`, or anything with its `recipe`, `history` and `scheduler`.
        given: values for the fields of `Recipe`; None (or no entry) is a flag left out.
        precision: that is asked for.
    """
    if not (last and goes_on_in(last, precision)):
        return Standing.NEW
    recipe = recipe_of(last)
    if not same_run(given, recipe):
        return Standing.NEW
    done = len(last["history"]) >= settle(given, recipe).epochs
    return Standing.FINISHED if done else Standing.RESUME


def goes_on_in(last: Mapping[str, Any], precision: str) -> bool:
    """Whether a run may go on in that precision: one in bf16 only in it, any other only without."""
    return (last.get("precision") == BF16) == (precision == BF16)


def last_run(output_dir: str | Path, dataset_name: str, model_name: str) -> dict[str, Any]:
    """What the newest checkpoint of a model says of its run; empty if none can be read."""
    folder = places.checkpoint_folder(output_dir, dataset_name, model_name)
    try:
        run = newest_run(folder)
    except UserError:  # the training itself will say so
        return {}
    return run.meta if run else {}
