"""Whether a training that is asked for is a new run, goes on with the last one, or is done."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils import places
from utils.checkpoint.weights import read_meta
from utils.errors import UserError
from utils.recipe import recipe_of, same_run, settle
from utils.runtime import BF16


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
    """What the last checkpoint of a model says of its run; empty if none can be read."""
    folder = places.checkpoint_folder(output_dir, dataset_name, model_name)
    try:
        return read_meta(folder / places.LAST)
    except UserError:  # there is none; or it is damaged, and the training itself will say so
        return {}
