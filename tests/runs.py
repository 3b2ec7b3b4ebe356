"""Training runs in this process, stopped wherever a test wants it."""

from __future__ import annotations

import contextlib
import io

from utils.recipe import resolve_recipe
from utils.training.run import TrainingOptions, train
from utils.training.state import TrainingState
from utils.training.store import Store

DATASET = "Tiny"


class StopAt:
    """Stands in for a StopRequest: asks to stop when it is asked for the `call`-th time."""

    def __init__(self, call=None):
        self.call, self.calls = call, 0

    def requested(self):
        self.calls += 1
        return self.calls == self.call


def train_tiny(model_name, folder, given, stop_at=None, resume=None):
    """Trains on folder/data/Tiny, output to folder/out; returns whether it came to its end."""
    options = TrainingOptions(folder / "data", folder / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        return train(model_name, DATASET, given, options, StopAt(stop_at), resume)


def begin(model_name, output_dir, given, resume=None, dataset_name=DATASET):
    """The state of a run and its store, before the first step."""
    store = Store(output_dir, dataset_name, model_name)
    saved = store.find(resume) if resume else None
    recipe = resolve_recipe(given, saved and saved.recipe)
    return TrainingState(model_name, dataset_name, recipe, saved), store, saved
