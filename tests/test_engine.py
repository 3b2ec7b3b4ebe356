"""Steps under way at once, as on a GPU, here on the CPU: they change no digit."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import SIZE

from utils.checkpoint.weights import get_weights, read_arrays
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_splits
from utils.errors import UserError
from utils.runtime import jt
from utils.training import engine
from utils.training.run import Run

pytestmark = pytest.mark.usefixtures("cpu")

MODEL, STEPS = "L2SKNet_1D_FPN", 6  # it has dropout
RECIPE = {"batch_size": 2, "image_size": SIZE, "epochs": 2, "milestones": (9,)}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    write_sample_dataset(folder / "Tiny", 2 * STEPS, 2, SIZE)
    return load_splits(folder, "Tiny")


@pytest.fixture
def four_at_once(monkeypatch):
    monkeypatch.setattr(engine, "_most_under_way", lambda: 4)


def run_epoch(run, splits, check=lambda: None):
    return run.run_epoch(*splits, False, 0.5, check)


def state(run):
    return {**get_weights(run.net), **run.optimizer.state_dict()}


def assert_same(run, other):
    assert [record.loss for record in run.history] == [record.loss for record in other.history]
    a, b = state(run), state(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def one_by_one(splits, tmp_path_factory):
    run = Run(MODEL, "Tiny", tmp_path_factory.mktemp("one"), RECIPE)
    run_epoch(run, splits)
    return run


def test_steps_under_way_at_once_change_no_digit(splits, tmp_path, one_by_one, four_at_once):
    run, looks = Run(MODEL, "Tiny", tmp_path, RECIPE), []
    run_epoch(run, splits, lambda: looks.append(len(run.losses)))
    assert looks == [4, 6]
    assert_same(run, one_by_one)
    saved = read_arrays(run.folder / "last.npz")
    for name, array in get_weights(one_by_one.net).items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)


def test_a_stop_saves_what_is_complete_and_resuming_is_exact(
    splits, tmp_path, one_by_one, four_at_once
):
    def stop():
        raise engine.Interrupted

    run = Run(MODEL, "Tiny", tmp_path, RECIPE)
    with pytest.raises(engine.Interrupted):
        run_epoch(run, splits, stop)
    assert len(run.losses) == run.optimizer.steps == 4
    run.save_last()
    resumed = Run(MODEL, "Tiny", tmp_path, RECIPE, "last")
    run_epoch(resumed, splits)
    assert_same(resumed, one_by_one)


def test_steps_under_way_hold_no_activations(splits, tmp_path, four_at_once, monkeypatch):
    held, right = [], engine._read_losses

    def read(net, pending, *rest):
        jt.sync_all(True)
        held.append(jt.liveness_info()["lived_vars"])
        right(net, pending, *rest)

    monkeypatch.setattr(engine, "_read_losses", read)
    run = Run(MODEL, "Tiny", tmp_path, RECIPE)
    run_epoch(run, splits)
    of_four, of_two = held
    assert of_four - of_two <= 2 * 8  # an activation has hundreds of variables


def error_of(run, splits, check=lambda: None):
    with pytest.raises(UserError) as error:
        run_epoch(run, splits, check)
    return str(error.value)


def images_of(batch):
    order = np.random.default_rng([42, 1]).permutation(2 * STEPS)[2 * batch - 2 : 2 * batch] + 1
    return ", ".join(f"sample_{number:04d}" for number in order)


def test_a_loss_that_is_not_finite_is_named_where_it_arose(splits, tmp_path, four_at_once):
    run = Run(MODEL, "Tiny", tmp_path, {**RECIPE, "lr": 1e30})
    message = error_of(run, splits)
    assert f"not finite in epoch 1, batch 2, images {images_of(2)}: " in message
    assert len(run.losses) == 1 and not run.folder.exists()


def test_the_weights_are_looked_at_when_an_epoch_ends(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_most_under_way", lambda: STEPS - 1)
    run = Run(MODEL, "Tiny", tmp_path, RECIPE)

    def spoil_the_last_step():
        run.optimizer.lr = 1e39

    message = error_of(run, splits, spoil_the_last_step)
    assert f"not finite in epoch 1, batch {STEPS}, images {images_of(STEPS)}: " in message
    assert not run.folder.exists()


@pytest.mark.parametrize("part", ["weights", "moments"])
def test_what_is_not_finite_is_not_saved(splits, tmp_path, part):
    run = Run(MODEL, "Tiny", tmp_path, RECIPE)
    run.save_last()
    before = (run.folder / "last.npz").read_bytes()
    spoilt = run.optimizer.parameters[3] if part == "weights" else run.optimizer.moments[3][1]
    spoilt.update(spoilt + np.float32(np.inf))
    with pytest.raises(UserError, match="last.npz: not written, .* is not finite"):
        run.save_last()
    assert (run.folder / "last.npz").read_bytes() == before
