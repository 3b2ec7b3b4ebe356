"""Several steps under way at once, as on a GPU, here on the CPU: they change no digit."""

from __future__ import annotations

import numpy as np
import pytest
from runs import begin
from scripts import SIZE, assert_same_arrays, complaint

from utils.checkpoint.weights import get_weights
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_splits
from utils.runtime import jt
from utils.training.engine import training_steps

pytestmark = pytest.mark.usefixtures("cpu")

MODEL, STEPS = "L2SKNet_1D_FPN", 6  # it has dropout
RECIPE = {"batch_size": 2, "image_size": SIZE, "epochs": 2, "milestones": (9,)}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    write_sample_dataset(folder / "Tiny", 2 * STEPS, 2, SIZE)
    return load_splits(folder, "Tiny")[0]


def steps(state, split, at_once):
    return training_steps(state.net, state.optimizer, split, state.recipe, 1, state.losses, at_once)


@pytest.fixture(scope="module")
def one_by_one(split, tmp_path_factory):
    state, _, _ = begin(MODEL, tmp_path_factory.mktemp("one"), RECIPE)
    for losses in steps(state, split, 1):
        state.losses += losses
    assert len(state.losses) == STEPS
    return state


def assert_same(state, other):
    assert state.losses == other.losses
    assert_same_arrays(*({**get_weights(each.net), **each.optimizer.state_dict()}
                         for each in (state, other)))


def test_a_stop_between_groups_of_steps_is_resumed_exactly(split, tmp_path, one_by_one):
    state, store, _ = begin(MODEL, tmp_path, RECIPE)
    for losses in steps(state, split, 4):
        state.losses += losses
        break
    assert len(state.losses) == state.optimizer.steps == 4
    store.save_last(state)
    resumed, _, _ = begin(MODEL, tmp_path, RECIPE, "last")
    for losses in steps(resumed, split, 4):
        assert len(losses) == 2
        resumed.losses += losses
    assert_same(resumed, one_by_one)


def test_steps_under_way_hold_no_activations(split, tmp_path):
    state, _, _ = begin(MODEL, tmp_path, RECIPE)
    held = []
    for _ in steps(state, split, 4):
        jt.sync_all(True)
        held.append(jt.liveness_info()["lived_vars"])
    of_four, of_two = held
    assert of_four - of_two <= 2 * 8  # an activation has hundreds of variables


def images_of(batch):
    order = np.random.default_rng([42, 1]).permutation(2 * STEPS)[2 * batch - 2 : 2 * batch] + 1
    return ", ".join(f"sample_{number:04d}" for number in order)


@pytest.mark.parametrize(("rates", "at_once", "batch"), [
    ((1e30,), 4, 2), ((1e39,), 1, 1),
    ((1e-3, 1e39), STEPS - 1, STEPS)])  # the last step alone: the weights are checked after it
def test_a_loss_that_is_not_finite_is_named_where_it_arose(split, tmp_path, rates, at_once, batch):
    state, _, _ = begin(MODEL, tmp_path, RECIPE)
    taken = steps(state, split, at_once)
    *fine, last = rates
    for rate in fine:
        state.optimizer.lr = rate
        next(taken)
    state.optimizer.lr = last
    assert f"not finite in epoch 1, batch {batch}, images {images_of(batch)}: " in complaint(
        next, taken)


def test_moments_that_are_not_finite_are_not_saved(tmp_path):
    state, store, _ = begin(MODEL, tmp_path, RECIPE)
    store.save_last(state)
    before = store.last.read_bytes()
    moment = state.optimizer.moments[3][1]
    moment.update(moment + np.float32(np.inf))
    message = complaint(store.save_last, state)
    assert "last.npz: not written, Adam's " in message and "is not finite" in message
    assert store.last.read_bytes() == before
