"""Training: interrupted, resumed, refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import begin, train_tiny
from scripts import SIZE, SMALL, assert_same_arrays, checkpoints, complaint, prints, signalled

import train_device0
from utils.checkpoint.weights import get_weights, read_arrays, read_checkpoint, read_meta
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_split
from utils.errors import UserError
from utils.files import locked
from utils.predict.maps import load_model
from utils.training.engine import evaluation_steps, merge_counts
from utils.training.logs import METRICS, EpochRecord, best_epochs, read_log, render_log
from utils.training.store import read_run

pytestmark = pytest.mark.usefixtures("cpu")

MODELS = UNET, FPN = "L2SKNet_UNet", "L2SKNet_1D_FPN"  # the FPN has dropout
TRAIN, TEST, STEPS, EPOCHS = 12, 3, 6, 3
RECIPE = {"batch_size": 2, "image_size": SIZE, "epochs": EPOCHS}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the dataset; one of its training images has no target."""
    folder = tmp_path_factory.mktemp("training")
    data = write_sample_dataset(folder / "data" / "Tiny", TRAIN, TEST, SIZE)
    Image.new("L", (SIZE, SIZE)).save(data / "masks" / "sample_0005.png")
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """Both models trained without interruption, in one command with the official spellings."""
    output = trains(place, "--model_names", *MODELS, "--dataset_names", "Tiny", "--batchSize", 2,
                    "--nEpochs", EPOCHS, "--threads", 2, "--image_size", SIZE, "--lr", 2e-3)
    return place, output


@pytest.fixture
def other(place, tmp_path):
    """An empty folder for output, with the dataset."""
    return beside(place, tmp_path)


@pytest.fixture
def copied(whole, other):
    """A copy of the finished runs, to go on from."""
    shutil.copytree(whole[0] / "out", other / "out")
    return other


def trains(folder, *flags):
    """Runs train_device0.py in this process; returns what it printed."""
    return prints(train_device0.main, folder, *flags)


def refusal(folder, *flags):
    """The message that train_device0.py refuses its flags or its input with."""
    with pytest.raises(UserError) as error:
        trains(folder, *flags)
    return str(error.value)


def beside(place, folder):
    """Links the dataset into another folder, for output that begins empty."""
    folder.mkdir(exist_ok=True)
    (folder / "data").symlink_to(place / "data")
    return folder


def log_text(place, model_name, number=-1):
    """The log of a model, its time stamps left out."""
    return untimed(sorted((place / "out" / "log").glob(f"Tiny_{model_name}_*.txt"))[number])


def untimed(path):
    return re.sub(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ", "", path.read_text(), flags=re.M)


def history(path):
    """The records of the complete epochs in a checkpoint."""
    return [EpochRecord(**record) for record in read_meta(path)["history"]]


def assert_same_state(place, other, model_name):
    """Log, weights, moments and schedule of two runs are equal, digit for digit."""
    assert log_text(place, model_name) == log_text(other, model_name)
    for name in ("last.npz", "best.npz"):
        paths = [checkpoints(folder, model_name) / name for folder in (place, other)]
        assert_same_arrays(*({**read_arrays(path), "meta": np.zeros(0)} for path in paths))
        a, b = ({**read_meta(path), "started": None} for path in paths)
        for record in a["history"] + b["history"]:
            record["time"] = ""
        assert a == b


def test_a_run_reports_logs_and_saves(whole):
    place, output = whole
    assert "Tiny train: 12 images, 32x32, 8 bit;" in output
    assert re.search(r"train: .* [1-9]\d* pixels, 1 image without a target\n", output)
    for model_name in MODELS:
        folder = checkpoints(place, model_name)
        assert sorted(path.name for path in folder.iterdir()) == [
            "before.npz", "best.npz", "last.npz"]
        assert len(history(folder / "before.npz")) == EPOCHS - 1
        (log,) = (place / "out" / "log").glob(f"Tiny_{model_name}_*.txt")
        records = history(folder / "last.npz")
        head = (f"{model_name} on Tiny: 3 epochs, batch size 2, learning rate 0.002 (x0.1 after 2 "
                "and 3), seed 42, image size 32")
        assert log.read_text() == render_log(records, head) and f"\n{head}; " in output
        assert [record.epoch for record in read_log(log)] == [1, 2, 3]
        assert records[-1].loss < records[0].loss
        assert f"epoch 3/3: loss {records[-1].loss:.6f}, mIoU {records[-1].mIoU:.4f}" in output


def test_best_weights_score_what_the_log_says(whole):
    path = checkpoints(whole[0], FPN) / "best.npz"
    best = best_epochs(history(path.with_name("last.npz")))["mIoU"]
    split = load_split(whole[0] / "data", "Tiny", "test")
    scores = merge_counts(evaluation_steps(load_model(FPN, path), split, 2)).compute()
    assert history(path)[-1].epoch == best.epoch
    for name in METRICS:
        assert scores[name] == pytest.approx(getattr(best, name), abs=1e-6)
    assert scores["strict"] == pytest.approx(best.strict, abs=1e-6)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(whole, other):
    flags = ("--model_name", FPN, *SMALL, "--epochs", EPOCHS, "--lr", 2e-3)
    output = trains(other, *flags, "--stop_after", 1e-4)
    assert f"stopped in epoch 1 after 1 of {STEPS} batches" in output and "--resume" in output

    returned, output = signalled(signal.SIGINT, f"{FPN} on ", "train_device0.py", other, *flags,
                                 "--resume")
    assert returned == 130
    assert "resumed after epoch 0 and 1 batches" in output
    stopped = re.search(rf"stopped in epoch (\d) after (\d) of {STEPS} batches.*--resume", output)
    folder = checkpoints(other, FPN)
    epochs, steps = read_run(folder / "last.npz").progress
    assert (epochs, steps) == (int(stopped[1]) - 1, int(stopped[2]))
    assert {path.name for path in folder.iterdir()} <= {"best.npz", "last.npz", "before.npz"}

    output = trains(other, *flags, "--resume")
    assert f"resumed after epoch {epochs} and {steps} batches" in output
    assert_same_state(whole[0], other, FPN)


def test_a_killed_run_ends_like_one_left_alone(whole, other):
    flags = ("--model_name", UNET, *SMALL, "--epochs", EPOCHS, "--lr", 2e-3)
    status, _ = signalled(signal.SIGKILL, "epoch 1/", "train_device0.py", other, *flags)
    assert status == -signal.SIGKILL
    assert "resumed after epoch" in trains(other, *flags, "--resume")
    assert_same_state(whole[0], other, UNET)


def test_stopping_at_any_place_changes_nothing(place, tmp_path_factory):
    # With a rate that falls meanwhile. An epoch asks 6 + 2 times: after each step and test batch.
    recipe = {**RECIPE, "milestones": (1, 2)}
    straight, broken = (beside(place, tmp_path_factory.mktemp(name))
                        for name in ("straight", "broken"))
    assert train_tiny(FPN, straight, recipe)
    progress = []
    for call in (1, 5, 1, 2, 3, 6):
        resume = "last" if progress else None
        assert not train_tiny(FPN, broken, recipe, call, resume)
        progress.append(read_run(checkpoints(broken, FPN) / "last.npz").progress)
    # In training; with training just done; twice in the test list; in training; there again.
    assert progress == [(0, 1), (0, 6), (0, 6), (0, 6), (1, 1), (1, 6)]
    assert train_tiny(FPN, broken, recipe, resume="last")
    assert_same_state(straight, broken, FPN)


def test_runs_differ_by_their_seed(tmp_path):
    first, second = (get_weights(begin(FPN, tmp_path, {"seed": seed})[0].net) for seed in (42, 43))
    name = "layer0.0.body.0.weight"
    assert np.abs(first[name] - second[name]).max() > 0.1


def test_more_epochs_go_on_and_eval_every_skips_evaluations(whole, copied):
    flags = ("--model_name", UNET, "--resume")
    output = trains(copied, *flags, "--epochs", EPOCHS + 4, "--milestones", 2, 3,
                    "--eval_every", 5, "--eval_last", 2)
    assert f"resumed after epoch {EPOCHS} and 0 batches" in output
    assert log_text(copied, UNET).partition("\n")[2].startswith(
        log_text(whole[0], UNET).partition("\n")[2])
    (log,) = (copied / "out" / "log").glob(f"Tiny_{UNET}_*.txt")
    assert [(record.epoch, record.evaluated) for record in read_log(log)] == [
        (1, True), (2, True), (3, True), (4, False), (5, True), (6, True), (7, True)]
    assert "finished: " in trains(copied, *flags)
    assert len(read_log(log)) == EPOCHS + 4


def test_a_new_run_keeps_the_earlier_one_aside(whole, copied):
    folder = checkpoints(copied, UNET)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    started = read_meta(folder / "last.npz")["started"]
    output = trains(copied, "--model_name", *MODELS, *SMALL, "--stop_after", 1e-4)
    earlier = folder / f"earlier_{started}"
    assert f"earlier run are now in {earlier}\n" in output
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    assert read_run(folder / "last.npz").progress == (0, 1)
    assert log_text(copied, UNET) == log_text(whole[0], UNET)
    # The time is for all models together.
    assert output.count("stopped in epoch 1") == 1 and FPN not in output


@pytest.mark.parametrize("whole_file", [True, False])
def test_a_new_run_keeps_weights_aside_of_which_no_more_is_there(whole, other, whole_file):
    folder = checkpoints(other, UNET)
    folder.mkdir(parents=True)
    best = Path(shutil.copy(checkpoints(whole[0], UNET) / "best.npz", folder))
    started = read_meta(best)["started"]
    if not whole_file:
        cut(best)
        os.utime(best, (1e9, 1e9))
        started = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1e9))
    content = best.read_bytes()
    output = trains(other, "--model_name", UNET, *SMALL, "--stop_after", 1e-4)
    assert f"earlier run are now in {folder / f'earlier_{started}'}\n" in output
    assert (folder / f"earlier_{started}" / "best.npz").read_bytes() == content
    assert not best.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(other):
    flags = ("--model_name", UNET, *SMALL, "--epochs", 2, "--lr", 1e30)
    trains(other, *flags, "--stop_after", 1e-4)
    last = checkpoints(other, UNET) / "last.npz"
    before = last.read_bytes()
    error = refusal(other, *flags, "--resume")
    assert "\n" not in error and "not finite in epoch 1, batch 2, images sample_" in error
    order = np.random.default_rng([42, 1]).permutation(TRAIN)[2:4] + 1
    assert f"images {', '.join(f'sample_{number:04d}' for number in order)}: " in error
    assert list(last.parent.iterdir()) == [last] and last.read_bytes() == before


def test_what_cannot_be_resumed_is_refused(whole, other, tmp_path):
    unet, fpn = (checkpoints(whole[0], model_name) for model_name in MODELS)
    flags = ("--model_name", UNET, "--resume")
    assert refusal(whole[0], *flags, "--lr", 0.5) == (
        "--lr 0.5: the run to resume has 0.002; leave the flag out")
    nothing = refusal(other, *flags)
    assert f"{checkpoints(other, UNET) / 'last.npz'}: nothing to resume" in nothing

    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes((unet / "last.npz").read_bytes()[:-1000])
    for path, says in (
        (fpn / "last.npz", f"is a run of model {FPN}, not {UNET}"),
        (unet / "best.npz", "holds weights only"),
        (tmp_path / "none.npz", "no such file"),
        (damaged, "damaged"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{re.escape(says)}"):
            begin(UNET, other / "out", {}, path)
    with pytest.raises(UserError, match="is a run of dataset Tiny, not Other"):
        begin(UNET, other / "out", {}, unet / "last.npz", dataset_name="Other")
    assert not (other / "out").exists()


def test_a_checkpoint_from_before_an_option_is_resumed(whole, tmp_path):
    def change(meta, _):
        for name in ("target_crops", "scale", "photometric"):
            del meta["recipe"][name]
        del meta["weights"]

    path = checkpoints(whole[0], UNET) / "last.npz"
    older = changed_copy(path, tmp_path, change)
    state, _, _ = begin(UNET, tmp_path, {}, older)
    assert state.recipe == begin(UNET, tmp_path, {}, path)[0].recipe
    assert state.epochs_done == EPOCHS and state.weights is None
    with pytest.raises(UserError, match="--photometric: the run to resume has False"):
        begin(UNET, tmp_path, {"photometric": True}, older)


def test_a_run_begins_from_weights(whole, other, tmp_path):
    path = checkpoints(whole[0], UNET) / "best.npz"
    flags = ("--model_name", UNET, *SMALL, "--epochs", 1)
    output = trains(other, *flags, "--lr", 1e-30, "--weights", path)
    assert f"image size 32, from the weights {path}; " in output
    begun, trained = read_arrays(path), read_arrays(checkpoints(other, UNET) / "last.npz")
    for name, array in begun.items():
        if name != "meta" and "running_" not in name:
            np.testing.assert_array_equal(trained[name], array, err_msg=name)
    assert read_meta(checkpoints(other, UNET) / "last.npz")["weights"] == str(path)
    trains(other, "--model_name", UNET, "--resume")
    assert f", from the weights {path}\n" in log_text(other, UNET)
    for words, says in (
        (("--resume", "--weights", path), "--weights: begins a new run; leave out --weights or "),
        (("--weights", tmp_path / "none.npz"), f"{tmp_path / 'none.npz'}: no such file"),
        (("--model_name", *MODELS, "--weights", path), f"{path}: weights are of one network"),
        (("--model_name", *MODELS, "--resume", path), f"--resume {path}: must be the checkpoint"),
        (("--resume", ""), "--resume : must be the checkpoint of one run"),
    ):
        assert says in refusal(other, "--model_name", UNET, *words)


def test_a_run_resumed_from_a_path_has_its_best_weights(whole, other, tmp_path):
    theirs, ours = checkpoints(whole[0], UNET), checkpoints(other, UNET)
    flags = "--model_name", UNET, "--resume"
    output = trains(other, *flags, theirs / "last.npz", "--epochs", EPOCHS + 1)
    assert f"resumed after epoch {EPOCHS}" in output
    lengths = [len(history(folder / "last.npz")) for folder in (theirs, ours)]
    assert lengths == [EPOCHS, EPOCHS + 1] and (ours / "best.npz").is_file()

    without = beside(other, tmp_path / "without")
    alone = Path(shutil.copy(theirs / "last.npz", tmp_path))
    output = trains(without, *flags, alone)
    best = best_epochs(history(alone))["mIoU"]
    assert (f"{alone.with_name('best.npz')}: does not hold the best weights so far, of epoch "
            f"{best.epoch}; ") in output
    assert not (checkpoints(without, UNET) / "best.npz").exists()


def test_best_weights_are_those_that_the_log_calls_best(whole, other, tmp_path, capsys):
    theirs, ours = checkpoints(whole[0], UNET), checkpoints(other, UNET)
    ours.mkdir(parents=True)

    def earlier(meta, _):
        meta["history"] = meta["history"][:-1] or meta["history"] * 2

    def resumed(path):
        state, store, saved = begin(UNET, other / "out", {}, path)
        with store.opened(state, saved):
            return state

    # The folder holds the run too, with fewer epochs and the best of them.
    shutil.copy(theirs / "before.npz", ours / "last.npz")
    stale = changed_copy(theirs / "best.npz", ours, earlier).read_bytes()
    resumed(theirs / "last.npz")
    assert (ours / "best.npz").read_bytes() == (theirs / "best.npz").read_bytes()
    # No file holds them.
    (ours / "best.npz").write_bytes(stale)
    alone = changed_copy(theirs / "last.npz", tmp_path, lambda meta, _: meta["history"][0].update(
        mIoU=0.99))
    resumed(alone)
    (aside,) = ours.glob("earlier_*_best_2")
    assert (aside / "best.npz").read_bytes() == stale and not (ours / "best.npz").exists()
    assert "of epoch 1; there is no best.npz until an epoch is better" in capsys.readouterr().out
    # The run was killed after last.npz and before best.npz.
    (ours / "best.npz").write_bytes(stale)
    state = resumed(changed_copy(theirs / "last.npz", tmp_path, lambda meta, _: meta["history"][
        -1].update(mIoU=0.999)))
    best, last = read_arrays(ours / "best.npz"), read_arrays(theirs / "last.npz")
    for name in get_weights(state.net):
        np.testing.assert_array_equal(best[name], last[name])
    assert len(history(ours / "best.npz")) == EPOCHS


def test_checkpoints_that_were_moved_aside_are_not_overwritten(copied):
    folder = checkpoints(copied, UNET)
    started = read_meta(folder / "last.npz")["started"]
    whole_run = (folder / "last.npz").read_bytes()
    (folder / "best.md").write_text("a card")
    flags = ("--model_name", UNET, *SMALL, "--stop_after", 1e-4)
    trains(copied, *flags)
    # An older checkpoint of the first run, and a new run again.
    trains(copied, "--model_name", UNET, "--resume", folder / f"earlier_{started}" / "before.npz",
           "--stop_after", 1e-4)
    trains(copied, *flags)
    assert (folder / f"earlier_{started}" / "last.npz").read_bytes() == whole_run
    assert (folder / f"earlier_{started}" / "best.md").read_text() == "a card"
    assert len(history(folder / f"earlier_{started}_2" / "last.npz")) == EPOCHS - 1


def test_a_failing_disk_is_no_damaged_checkpoint(copied, monkeypatch):
    last = checkpoints(copied, UNET) / "last.npz"

    def load(path, **_):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(OSError, match="Input/output error"):
        begin(UNET, copied / "out", {}, "last")
    assert last.is_file()


def test_of_several_runs_those_without_a_checkpoint_begin(whole, other):
    assert "nothing to resume" in refusal(other, "--model_name", *MODELS, "--resume")
    first, second = MODELS
    shutil.copytree(checkpoints(whole[0], first), checkpoints(other, first))
    output = trains(other, "--model_name", first, second, "--resume", "--stop_after", 1e-9)
    assert f"resumed after epoch {EPOCHS}" in output and "stopped in epoch 1 after" in output
    assert f"{second} on Tiny: has no checkpoint, and begins" in output
    assert (checkpoints(other, second) / "last.npz").is_file()


def test_an_older_checkpoint_of_a_run_does_not_replace_the_newer(copied, tmp_path):
    folder = checkpoints(copied, UNET)
    older = Path(shutil.copy(folder / "before.npz", tmp_path / "older.npz"))
    log = log_text(copied, UNET)
    epochs = len(history(older))
    assert epochs < EPOCHS
    flags = ("--model_name", UNET, "--resume", older, "--stop_after", 1e-9)
    output = trains(copied, *flags)
    (earlier,) = folder.glob(f"earlier_*_{EPOCHS}_0")
    assert f"the checkpoints of an earlier run are now in {earlier}" in output
    assert len(history(earlier / "last.npz")) == EPOCHS
    (copy,) = earlier.glob("*.txt")
    assert untimed(copy) == log
    assert len(history(folder / "last.npz")) == epochs
    # A second time: what was moved before stays.
    trains(copied, *flags)
    assert len(history(earlier / "last.npz")) == EPOCHS
    found = len(history(earlier / "best.npz")) == best_epochs(history(older))["mIoU"].epoch
    assert (folder / "best.npz").is_file() == found


def test_a_run_goes_on_with_its_images_and_threshold_only(whole, tmp_path):
    other = tmp_path
    shutil.copytree(whole[0] / "data", other / "data")
    shutil.copytree(whole[0] / "out", other / "out")
    last = checkpoints(other, UNET) / "last.npz"
    flags = ("--model_name", UNET, "--resume", "--epochs", EPOCHS + 1, "--milestones", 2, 3)
    error = refusal(other, *flags, "--threshold", 0.3)
    assert error == (f"{last}: was scored at --threshold 0.5; take that threshold, or start anew "
                     f"without --resume (for run_train.py move {last.parent} away)")
    for split in ("test", "train"):
        path = other / "data" / "Tiny" / f"{split}.txt"
        path.write_text("\n".join(path.read_text().split()[:-1]))
        error = refusal(other, *flags)
        assert error.startswith(f"{last}: this run has another list of {split} images; ")


# What a power cut, a bad disk, another version or another process may leave


def changed_copy(path, folder, change):
    """Copies a checkpoint into a folder; `change` gets its `meta` and its arrays."""
    arrays, meta = read_checkpoint(path)
    change(meta, arrays)
    np.savez(folder / path.name, **{**arrays, "meta": np.array(json.dumps(meta))})
    return folder / path.name


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT = {"cut": cut, "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
          "empty": lambda path: path.write_bytes(b""), "gone": Path.unlink}


@pytest.mark.parametrize("way", SPOILT)
def test_a_damaged_last_checkpoint_costs_an_epoch_and_no_digit(whole, copied, way):
    folder = checkpoints(copied, UNET)
    for path in (folder / "last.npz", *(copied / "out" / "log").glob(f"Tiny_{UNET}_*")):
        SPOILT[way](path)
    state, store, saved = begin(UNET, copied / "out", {}, "last")
    assert state.epochs_done == EPOCHS - 1 and str(folder / "last.npz") in saved.damaged
    before = (folder / "before.npz").read_bytes()
    store.save_last(state)  # interrupted at once: the damaged one must not become before.npz
    assert (folder / "before.npz").read_bytes() == before
    assert train_tiny(UNET, copied, {}, resume="last")
    assert_same_state(whole[0], copied, UNET)


def test_the_command_says_what_was_damaged(copied):
    folder = checkpoints(copied, UNET)
    (folder / ".last-killed1.npz").write_bytes(b"half")
    cut(folder / "last.npz")
    output = trains(copied, "--model_name", UNET, "--resume")
    assert f"{folder / 'last.npz'}: not an .npz file of plain arrays, or damaged;" in output
    assert f"going on from the checkpoint before, {folder / 'before.npz'}\n" in output
    assert f"resumed after epoch {EPOCHS - 1} and 0 batches" in output
    assert sorted(path.name for path in folder.iterdir()) == ["before.npz", "best.npz", "last.npz"]

    for name in ("last.npz", "before.npz"):
        cut(folder / name)
    for flags in (["--resume"], []):
        message = refusal(copied, "--model_name", UNET, *SMALL, *flags)
        assert message.startswith(f"{folder / 'last.npz'}: ") and "\n" not in message


@pytest.mark.parametrize("change", [
    lambda meta, _: meta.pop("history"), lambda meta, _: meta.update(history=[{"epoch": 1}]),
    lambda meta, _: meta["history"].pop(0), lambda meta, _: meta.update(losses=["x"]),
    lambda meta, _: meta.update(losses=[float("nan")]),
    lambda meta, _: meta.update(started="../../x"), lambda meta, _: meta.update(recipe=[]),
    lambda meta, _: meta["recipe"].update(epochs="3"), lambda meta, _: meta.update(scheduler=1),
    lambda meta, _: meta.pop("model"),
    lambda _, arrays: arrays["optimizer/v.0"].fill(np.nan),
    lambda _, arrays: arrays.pop("optimizer/v.0"),
    lambda _, arrays: arrays.update({"optimizer/v.0": np.ones(3)}),
    lambda _, arrays: arrays.update({"optimizer/steps": np.array("x")}),
    lambda _, arrays: arrays.pop("optimizer/lr"),
])
def test_a_checkpoint_that_says_what_no_run_does_is_refused(whole, tmp_path, change):
    path = changed_copy(checkpoints(whole[0], UNET) / "last.npz", tmp_path, change)
    message = complaint(begin, UNET, tmp_path / "out", {}, path)
    assert message.startswith(f"{path}: ") and not (tmp_path / "out").exists()


def test_two_trainings_of_one_model_do_not_mix(copied):
    folder = checkpoints(copied, UNET)
    with locked(folder):
        message = refusal(copied, "--model_name", UNET, "--resume")
        assert message.startswith(f"{folder}: another process is training into this folder")
    given = {"epochs": EPOCHS + 1, "milestones": (2, 3)}
    late, store, saved = begin(UNET, copied / "out", given, "last")
    assert train_tiny(UNET, copied, given, resume="last")
    with pytest.raises(UserError, match="another process went on with this run"):
        with store.opened(late, saved):
            pass


# Bad datasets


@pytest.fixture
def copy(place, tmp_path):
    """A copy of the dataset, to be spoilt."""
    shutil.copytree(place / "data", tmp_path / "data")
    return tmp_path / "data" / "Tiny"


def test_a_dataset_that_cannot_be_used_is_refused_before_anything_is_written(copy):
    folder = copy.parent.parent
    (copy / "masks" / "sample_0002.png").unlink()
    for flags, says in (((), f"{copy}: 1 file cannot be used; mend each"),
                        (("--batch_size", 1), "--batch_size 1: must be at least 2"),
                        (("--dataset_name", "Other"), f"{copy.parent}/Other: no dataset 'Other'")):
        skip = () if not flags else ("--skip_bad",)
        assert refusal(folder, *SMALL, *flags, *skip).startswith(says)
        assert not (folder / "out").exists()


def test_crops_of_unequal_images_with_soft_masks_are_resumed_exactly(copy, tmp_path):
    for index, size in ((1, (40, 33)), (2, (35, 50)), (3, (20, 60)), (TRAIN + 1, (35, 50))):
        for kind in ("images", "masks"):
            path = copy / kind / f"sample_{index:04d}.png"
            picture = Image.open(path).resize(size[::-1], Image.Resampling.BILINEAR)
            picture.save(path)
    deep = copy / "images" / "sample_0004.png"
    Image.fromarray(np.asarray(Image.open(deep)).astype(np.uint16) * 257).save(deep)
    Image.new("L", (9, 9)).save(copy / "masks" / "sample_0007.png")
    flags = ("--batch_size", 2, "--epochs", 2, "--image_size", 0, "--skip_bad")
    place = copy.parent.parent
    native = refusal(place, *flags)
    assert native.startswith(f"{copy}: --image_size 0 takes images as they are, but these ")
    assert "\n" not in native and not (place / "out").exists()
    flags += ("--crop", 24, "--soft_masks", "--augment", "--target_crops", 0.5, "--scale", 1.5,
              "--photometric")
    output = trains(place, *flags)
    assert re.search(r"Tiny train: 11 images, 4 sizes from \S+ to \S+, 8 and 16 bit;", output)
    assert re.search("[23] masks with grey", output)
    assert "1 pair left out: sample_0007\n" in output
    assert (", image size native, crops of 24, augmented, soft masks, 0.5 of the crops on targets, "
            "scaled by 1/1.5 to 1.5, photometric changes; ") in output

    other = tmp_path / "other"
    other.mkdir()
    beside(place, other)
    output = trains(other, *flags, "--stop_after", 1e-4)
    assert "stopped in epoch 1 after 1 of 5 batches" in output
    refusal(other, "--resume")  # the bad pair is refused without --skip_bad
    trains(other, "--resume", "--skip_bad")
    assert_same_state(place, other, UNET)
