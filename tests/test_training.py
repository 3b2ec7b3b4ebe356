"""Training: interrupted, resumed, refused."""

from __future__ import annotations

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
from scripts import SIZE, SMALL, prints, refused, signalled, succeeds

import train_device0
from utils.checkpoint.weights import read_arrays, read_meta
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_splits
from utils.errors import UserError
from utils.files import locked
from utils.paths import Paths
from utils.predict.maps import load_model
from utils.training.engine import evaluate
from utils.training.logs import METRICS, EpochRecord, best_epochs, read_log, render_log

pytestmark = pytest.mark.usefixtures("cpu")

MODELS = ("L2SKNet_UNet", "L2SKNet_1D_FPN")  # the FPN has dropout
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
def splits(place):
    return load_splits(place / "data", "Tiny")


@pytest.fixture(scope="module")
def whole(place):
    """Both models trained without interruption, in one command with the official spellings."""
    output = succeeds("train_device0.py", place, "--model_names", *MODELS, "--dataset_names",
                      "Tiny", "--batchSize", 2, "--nEpochs", EPOCHS, "--threads", 2,
                      "--image_size", SIZE, "--lr", 2e-3)
    return place, output


def trains(folder, *flags):
    """Runs train_device0.py in this process; returns what it printed."""
    return prints(train_device0.main, folder, *flags)


def refusal(folder, *flags):
    """The line that train_device0.py refuses its flags or its input with."""
    with pytest.raises(UserError) as error:
        trains(folder, *flags)
    return f"error: {error.value}\n"


def beside(place, folder):
    """Links the dataset into another folder, for output that begins empty."""
    folder.mkdir(exist_ok=True)
    (folder / "data").symlink_to(place / "data")
    return folder


def checkpoints(place, model_name):
    return Paths(place / "out").checkpoints("Tiny", model_name)


def log_text(place, model_name, number=-1):
    """The log of a model, its time stamps left out."""
    path = sorted((place / "out" / "log").glob(f"Tiny_{model_name}_*.txt"))[number]
    return re.sub(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ", "", path.read_text(), flags=re.M)


def assert_same_state(place, other, model_name):
    """Log, weights, moments and schedule of two runs are equal, digit for digit."""
    assert log_text(place, model_name) == log_text(other, model_name)
    for name in ("last.npz", "best.npz"):
        paths = [checkpoints(folder, model_name) / name for folder in (place, other)]
        a, b = map(read_arrays, paths)
        assert a.keys() == b.keys()
        for key in a.keys() - {"meta"}:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
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
        assert len(read_meta(folder / "before.npz")["history"]) == EPOCHS - 1
        (log,) = (place / "out" / "log").glob(f"Tiny_{model_name}_*.txt")
        history = [EpochRecord(**record) for record in read_meta(folder / "last.npz")["history"]]
        head = (f"{model_name} on Tiny: 3 epochs, batch size 2, learning rate 0.002 (x0.1 after 2 "
                "and 3), seed 42, image size 32")
        assert log.read_text() == render_log(history, head) and f"\n{head}; " in output
        assert [record.epoch for record in read_log(log)] == [1, 2, 3]
        assert history[-1].loss < history[0].loss
        assert f"epoch 3/3: loss {history[-1].loss:.6f}, mIoU {history[-1].mIoU:.4f}" in output


@pytest.mark.parametrize("model_name", MODELS)
def test_best_weights_score_what_the_log_says(whole, splits, model_name):
    path = checkpoints(whole[0], model_name) / "best.npz"
    history = read_meta(checkpoints(whole[0], model_name) / "last.npz")["history"]
    best = best_epochs(EpochRecord(**record) for record in history)["mIoU"]
    scores = evaluate(load_model(model_name, path), splits[1], 2).compute()
    assert read_meta(path)["history"][-1]["epoch"] == best.epoch
    for name in METRICS:
        assert scores[name] == pytest.approx(getattr(best, name), abs=1e-6)
    assert scores["strict"] == pytest.approx(best.strict, abs=1e-6)


@pytest.mark.parametrize(("model_name", "number", "status"),
                         [(MODELS[0], signal.SIGTERM, 143), (MODELS[1], signal.SIGINT, 130)])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    whole, tmp_path, model_name, number, status
):
    other = beside(whole[0], tmp_path)
    flags = ("--model_name", model_name, *SMALL, "--epochs", EPOCHS, "--lr", 2e-3)
    output = trains(other, *flags, "--stop_after", 1e-4)
    assert f"stopped in epoch 1 after 1 of {STEPS} batches" in output and "--resume" in output

    returned, output = signalled(number, f"{model_name} on ", "train_device0.py", other, *flags,
                                 "--resume")
    assert returned == status
    assert "resumed after epoch 0 and 1 batches" in output
    stopped = re.search(rf"stopped in epoch (\d) after (\d) of {STEPS} batches.*--resume", output)
    folder = checkpoints(other, model_name)
    meta = read_meta(folder / "last.npz")
    assert len(meta["history"]) == int(stopped[1]) - 1 and len(meta["losses"]) == int(stopped[2])
    assert len(read_arrays(folder / "last.npz")) == len(
        read_arrays(checkpoints(whole[0], model_name) / "last.npz"))
    assert {path.name for path in folder.iterdir()} <= {"best.npz", "last.npz", "before.npz"}

    output = trains(other, *flags, "--resume")
    assert f"resumed after epoch {len(meta['history'])} and {stopped[2]} batches" in output
    assert_same_state(whole[0], other, model_name)


def test_a_killed_run_ends_like_one_left_alone(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    flags = ("--model_name", MODELS[0], *SMALL, "--epochs", EPOCHS, "--lr", 2e-3)
    status, _ = signalled(signal.SIGKILL, "epoch 1/", "train_device0.py", other, *flags)
    assert status == -signal.SIGKILL
    assert "resumed after epoch" in trains(other, *flags, "--resume")
    assert_same_state(whole[0], other, MODELS[0])


@pytest.mark.parametrize("model_name", MODELS)
def test_stopping_at_any_place_changes_nothing(place, tmp_path_factory, model_name):
    # With a rate that falls meanwhile. An epoch asks 6 + 2 times: after each step and test batch.
    recipe = {**RECIPE, "milestones": (1, 2)}
    straight, broken = (beside(place, tmp_path_factory.mktemp(name))
                        for name in ("straight", "broken"))
    assert train_tiny(model_name, straight, recipe)
    progress = []
    for call in (1, 5, 1, 2, 3, 6):
        resume = "last" if progress else None
        assert not train_tiny(model_name, broken, recipe, call, resume)
        meta = read_meta(checkpoints(broken, model_name) / "last.npz")
        progress.append((len(meta["history"]), len(meta["losses"])))
    # In training; with training just done; twice in the test list; in training; there again.
    assert progress == [(0, 1), (0, 6), (0, 6), (0, 6), (1, 1), (1, 6)]
    assert train_tiny(model_name, broken, recipe, resume="last")
    assert_same_state(straight, broken, model_name)


def test_runs_differ_by_their_seed(place, tmp_path):
    weights = []
    for seed in (42, 43):
        folder = beside(place, tmp_path / str(seed))
        train_tiny(MODELS[1], folder, {**RECIPE, "epochs": 1, "seed": seed})
        weights.append(read_arrays(checkpoints(folder, MODELS[1]) / "last.npz"))
    name = "layer0.0.body.0.weight"
    assert np.abs(weights[0][name] - weights[1][name]).max() > 0.1


def test_more_epochs_go_on_and_eval_every_skips_evaluations(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    shutil.copytree(whole[0] / "out", other / "out")
    output = trains(other, "--model_name", MODELS[0], "--resume",
                      "--epochs", EPOCHS + 4, "--milestones", 2, 3, "--eval_every", 5,
                      "--eval_last", 2)
    assert f"resumed after epoch {EPOCHS} and 0 batches" in output
    assert log_text(other, MODELS[0]).partition("\n")[2].startswith(
        log_text(whole[0], MODELS[0]).partition("\n")[2])
    (log,) = (other / "out" / "log").glob(f"Tiny_{MODELS[0]}_*.txt")
    assert [(record.epoch, record.evaluated) for record in read_log(log)] == [
        (1, True), (2, True), (3, True), (4, False), (5, True), (6, True), (7, True)]

    assert "finished: " in trains(other, "--model_name", MODELS[0],
                                    "--resume")
    assert len(read_log(log)) == EPOCHS + 4


def test_a_new_run_keeps_the_earlier_one_aside(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    shutil.copytree(whole[0] / "out", other / "out")
    folder = checkpoints(other, MODELS[0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    started = read_meta(folder / "last.npz")["started"]
    output = trains(other, "--model_name", MODELS[0], *SMALL,
                      "--epochs", 1)
    earlier = folder / f"earlier_{started}"
    assert f"earlier run are now in {earlier}\n" in output
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    assert len(read_meta(folder / "last.npz")["history"]) == 1
    assert len(list((other / "out" / "log").glob(f"Tiny_{MODELS[0]}_*.txt"))) == 2
    assert log_text(other, MODELS[0], 0) == log_text(whole[0], MODELS[0])


@pytest.mark.parametrize("whole_file", [True, False])
def test_a_new_run_keeps_weights_aside_of_which_no_more_is_there(whole, tmp_path, whole_file):
    other = beside(whole[0], tmp_path)
    folder = checkpoints(other, MODELS[0])
    folder.mkdir(parents=True)
    best = Path(shutil.copy(checkpoints(whole[0], MODELS[0]) / "best.npz", folder))
    if not whole_file:
        cut(best)
        os.utime(best, (1e9, 1e9))
    content = best.read_bytes()
    started = read_meta(checkpoints(whole[0], MODELS[0]) / "best.npz")["started"]
    if not whole_file:
        started = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1e9))
    output = trains(other, "--model_name", MODELS[0], *SMALL,
                      "--stop_after", 1e-4)
    assert f"earlier run are now in {folder / f'earlier_{started}'}\n" in output
    assert (folder / f"earlier_{started}" / "best.npz").read_bytes() == content
    assert not best.exists()


def test_stop_after_counts_for_all_models_together(place, tmp_path):
    other = beside(place, tmp_path)
    output = trains(other, "--model_name", *MODELS, *SMALL,
                      "--stop_after", 1e-4)
    assert output.count("stopped in epoch 1") == 1 and MODELS[1] not in output


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(place, tmp_path):
    other = beside(place, tmp_path)
    flags = ("--model_name", MODELS[0], *SMALL, "--epochs", 2, "--lr", 1e30)
    trains(other, *flags, "--stop_after", 1e-4)
    last = checkpoints(other, MODELS[0]) / "last.npz"
    before = last.read_bytes()
    error = refusal(other, *flags, "--resume")
    assert error.count("\n") == 1 and "not finite in epoch 1, batch 2, images sample_" in error
    order = np.random.default_rng([42, 1]).permutation(TRAIN)[2:4] + 1
    assert f"images {', '.join(f'sample_{number:04d}' for number in order)}: " in error
    assert list(last.parent.iterdir()) == [last] and last.read_bytes() == before
    assert all(np.isfinite(array).all() for name, array in read_arrays(last).items()
               if name != "meta")


def test_what_cannot_be_resumed_is_refused(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    unet, fpn = (checkpoints(whole[0], model_name) for model_name in MODELS)
    other_lr = refused("train_device0.py", whole[0], "--model_name", MODELS[0], "--resume",
                       "--lr", 0.5)
    assert other_lr == "error: --lr 0.5: the run to resume has 0.002; leave the flag out\n"
    nothing = refusal(other, "--model_name", MODELS[0], "--resume")
    assert f"{checkpoints(other, MODELS[0]) / 'last.npz'}: nothing to resume" in nothing

    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes((unet / "last.npz").read_bytes()[:-1000])
    for path, says in (
        (fpn / "last.npz", f"is a run of model {MODELS[1]}, not {MODELS[0]}"),
        (unet / "best.npz", "holds weights only"),
        (tmp_path / "none.npz", "no such file"),
        (damaged, "damaged"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{re.escape(says)}"):
            begin(MODELS[0], other / "out", {}, path)
    with pytest.raises(UserError, match="is a run of dataset Tiny, not Other"):
        begin(MODELS[0], other / "out", {}, unet / "last.npz", dataset_name="Other")
    assert not (other / "out").exists()


def test_a_run_is_resumed_from_a_path(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    last = checkpoints(whole[0], MODELS[0]) / "last.npz"
    output = trains(other, "--model_name", MODELS[0], "--resume", last,
                      "--epochs", EPOCHS + 1)
    assert f"resumed after epoch {EPOCHS}" in output
    assert len(read_meta(checkpoints(other, MODELS[0]) / "last.npz")["history"]) == EPOCHS + 1
    assert len(read_meta(last)["history"]) == EPOCHS


def test_a_checkpoint_from_before_an_option_is_resumed(whole, tmp_path):
    path = checkpoints(whole[0], MODELS[0]) / "last.npz"
    meta = read_meta(path)
    for name in ("target_crops", "scale", "photometric"):
        meta["recipe"].pop(name)
    del meta["weights"]
    older = tmp_path / "last.npz"
    np.savez(older, **{**read_arrays(path), "meta": np.array(json.dumps(meta))})
    state, _, _ = begin(MODELS[0], tmp_path, {}, older)
    assert state.recipe == begin(MODELS[0], tmp_path, {}, path)[0].recipe
    assert state.epochs_done == EPOCHS and state.weights is None
    with pytest.raises(UserError, match="--photometric: the run to resume has False"):
        begin(MODELS[0], tmp_path, {"photometric": True}, older)


def test_a_run_begins_from_weights(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    path = checkpoints(whole[0], MODELS[0]) / "best.npz"
    flags = ("--model_name", MODELS[0], *SMALL, "--epochs", 1)
    output = trains(other, *flags, "--lr", 1e-30, "--weights", path)
    assert f"image size 32, from the weights {path}; " in output
    begun, trained = read_arrays(path), read_arrays(checkpoints(other, MODELS[0]) / "last.npz")
    for name, array in begun.items():
        if name != "meta" and "running_" not in name:
            np.testing.assert_array_equal(trained[name], array, err_msg=name)
    assert read_meta(checkpoints(other, MODELS[0]) / "last.npz")["weights"] == str(path)
    trains(other, "--model_name", MODELS[0], "--resume")
    assert f", from the weights {path}\n" in log_text(other, MODELS[0])
    for words, says in (
        (("--resume", "--weights", path), "--weights: begins a new run; leave out --weights or "),
        (("--weights", tmp_path / "none.npz"), f"{tmp_path / 'none.npz'}: no such file"),
        (("--model_name", *MODELS, "--weights", path), f"{path}: weights are of one network"),
    ):
        assert says in refusal(other, "--model_name", MODELS[0], *words)


def test_a_run_resumed_from_a_path_has_its_best_weights(whole, tmp_path):
    theirs = checkpoints(whole[0], MODELS[0])
    flags = "--model_name", MODELS[0], "--resume"
    with_best = beside(whole[0], tmp_path / "with")
    trains(with_best, *flags, theirs / "last.npz")
    assert (checkpoints(with_best, MODELS[0]) / "best.npz").read_bytes() == (
        theirs / "best.npz").read_bytes()
    without = beside(whole[0], tmp_path / "without")
    alone = Path(shutil.copy(theirs / "last.npz", tmp_path))
    output = trains(without, *flags, alone)
    best = best_epochs([EpochRecord(**one) for one in read_meta(alone)["history"]])["mIoU"]
    assert (f"{alone.with_name('best.npz')}: does not hold the best weights so far, of epoch "
            f"{best.epoch}; ") in output
    assert not (checkpoints(without, MODELS[0]) / "best.npz").exists()


def test_a_run_goes_on_with_its_images_and_threshold_only(whole, tmp_path):
    other = tmp_path
    shutil.copytree(whole[0] / "data", other / "data")
    shutil.copytree(whole[0] / "out", other / "out")
    last = checkpoints(other, MODELS[0]) / "last.npz"
    flags = ("--model_name", MODELS[0], "--resume", "--epochs", EPOCHS + 1, "--milestones", 2, 3)
    error = refusal(other, *flags, "--threshold", 0.3)
    assert error == (f"error: {last}: was scored at --threshold 0.5; take that threshold, or start "
                     "anew without --resume\n")
    for split in ("test", "train"):
        path = other / "data" / "Tiny" / f"{split}.txt"
        path.write_text("\n".join(path.read_text().split()[:-1]))
        error = refusal(other, *flags)
        assert error.startswith(f"error: {last}: was begun with other {split} images; bring ")


# What a power cut, a bad disk or another process may leave


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("spoil", [cut, zero, empty, remove])
def test_a_damaged_last_checkpoint_costs_an_epoch_and_no_digit(whole, tmp_path, spoil):
    other = beside(whole[0], tmp_path)
    shutil.copytree(whole[0] / "out", other / "out")
    folder = checkpoints(other, MODELS[0])
    for path in (folder / "last.npz", *(other / "out" / "log").glob(f"Tiny_{MODELS[0]}_*")):
        spoil(path)
    state, store, saved = begin(MODELS[0], other / "out", {}, "last")
    assert state.epochs_done == EPOCHS - 1 and str(folder / "last.npz") in saved.damaged
    before = (folder / "before.npz").read_bytes()
    store.save_last(state)  # interrupted at once: the damaged one must not become before.npz
    assert (folder / "before.npz").read_bytes() == before
    assert train_tiny(MODELS[0], other, {}, resume="last")
    assert_same_state(whole[0], other, MODELS[0])


def test_the_command_says_what_was_damaged(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    shutil.copytree(whole[0] / "out", other / "out")
    folder = checkpoints(other, MODELS[0])
    (folder / ".last-killed1.npz").write_bytes(b"half")
    cut(folder / "last.npz")
    output = trains(other, "--model_name", MODELS[0], "--resume")
    assert f"{folder / 'last.npz'}: not an .npz file of plain arrays, or damaged;" in output
    assert f"so from the checkpoint before, {folder / 'before.npz'}\n" in output
    assert f"resumed after epoch {EPOCHS - 1} and 0 batches" in output
    assert_same_state(whole[0], other, MODELS[0])
    assert sorted(path.name for path in folder.iterdir()) == ["before.npz", "best.npz", "last.npz"]

    for name in ("last.npz", "before.npz"):
        cut(folder / name)
    for flags in (["--resume"], []):
        message = refusal(other, "--model_name", MODELS[0], *SMALL, *flags)
        assert message.startswith(f"error: {folder / 'last.npz'}: ") and message.count("\n") == 1


def spoilt_meta(path, change):
    """Changes what a checkpoint says of its run."""
    arrays = read_arrays(path)
    meta = read_meta(path)
    change(meta, arrays)
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})


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
    path = tmp_path / "w.npz"
    shutil.copy(checkpoints(whole[0], MODELS[0]) / "last.npz", path)
    spoilt_meta(path, change)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: ") as error:
        begin(MODELS[0], tmp_path / "out", {}, path)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_two_trainings_of_one_model_do_not_mix(whole, tmp_path):
    other = beside(whole[0], tmp_path)
    shutil.copytree(whole[0] / "out", other / "out")
    folder = checkpoints(other, MODELS[0])
    with locked(folder):
        message = refusal(other, "--model_name", MODELS[0], "--resume")
        assert message.startswith(f"error: {folder}: another process is training into this folder")
    given = {"epochs": EPOCHS + 1, "milestones": (2, 3)}
    late, store, saved = begin(MODELS[0], other / "out", given, "last")
    assert train_tiny(MODELS[0], other, given, resume="last")
    with pytest.raises(UserError, match="another training has gone on from it meanwhile"):
        with store.opened(late, saved):
            pass


# Bad datasets


@pytest.fixture
def copy(place, tmp_path):
    """A copy of the dataset, to be spoilt."""
    shutil.copytree(place / "data", tmp_path / "data")
    return tmp_path / "data" / "Tiny"


def refuses(folder):
    message = refusal(folder, *SMALL)
    assert not (folder / "out").exists()
    return message


def test_all_bad_files_are_named_before_training_starts(copy):
    for name in ("images/sample_0001", "masks/sample_0002"):
        (copy / f"{name}.png").unlink()
    (copy / "images" / "sample_0003.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    Image.new("L", (30, 34)).save(copy / "masks" / "sample_0004.png")
    Image.new("L", (SIZE, SIZE), 7).save(copy / "masks" / f"sample_{TRAIN + 1:04d}.png")
    first, *lines = refuses(copy.parent.parent).splitlines()
    assert first.startswith(f"error: {copy}: 5 files cannot be used; mend each")
    for line, (path, says) in zip(lines, (
        ("images/sample_0001", "no such image"),
        ("masks/sample_0002", "no such mask"),
        ("images/sample_0003.png", "cannot be read as an image"),
        ("masks/sample_0004.png", "the mask is 30x34 but the image is 32x32"),
        (f"masks/sample_{TRAIN + 1:04d}.png", "not a binary mask (values 7; "),
    )):
        assert line.startswith(f"  {copy / path}: ") and says in line and ";" in line
    assert len(lines) == 5


def spoil_dataset(folder):
    folder.rename(folder.with_name("Other"))


def spoil_list(folder):
    (folder / "test.txt").unlink()


def empty_list(folder):
    (folder / "train.txt").write_text("\n\n")


@pytest.mark.parametrize(("spoil", "says"), [
    (spoil_dataset, "Tiny: no dataset 'Tiny' here; put or link the dataset there"),
    (spoil_list,
     "Tiny/test.txt: no test list (nor 50_50/test.txt, img_idx/test_Tiny.txt, "),
    (empty_list, "Tiny/train.txt: the list is empty; write"),
])
def test_a_dataset_that_is_not_there(copy, spoil, says):
    spoil(copy)
    message = refuses(copy.parent.parent)
    assert message.startswith(f"error: {copy.parent}/{says}") and message.count("\n") == 1


def test_a_batch_of_one_is_refused(place, tmp_path):
    message = refusal(beside(place, tmp_path), "--batch_size", 1)
    assert message.startswith("error: --batch_size 1: must be at least 2")
    assert message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_images_of_16_bit_and_mixed_sizes_are_trained_and_tested(copy):
    for index, size in ((1, (40, 33)), (TRAIN + 1, (35, 50))):
        name = f"sample_{index:04d}.png"
        image = np.asarray(Image.open(copy / "images" / name)).astype(np.uint16) * 257
        image = np.pad(image, ((0, size[0] - SIZE), (0, size[1] - SIZE)))
        Image.fromarray(image).save(copy / "images" / name)
        mask = np.asarray(Image.open(copy / "masks" / name)) // 255
        mask = np.pad(mask, ((0, size[0] - SIZE), (0, size[1] - SIZE)))
        Image.fromarray(mask).save(copy / "masks" / name)
    output = trains(copy.parent.parent, *SMALL, "--epochs", 1)
    assert "Tiny train: 12 images, 2 sizes from 32x32 to 33x40, 8 and 16 bit;" in output
    assert "epoch 1/1: loss 0." in output


# Other datasets than NUDT-SIRST


def test_crops_of_unequal_images_with_soft_masks_are_resumed_exactly(copy, tmp_path):
    for index, size in ((1, (40, 33)), (2, (35, 50)), (3, (20, 60))):
        for kind in ("images", "masks"):
            path = copy / kind / f"sample_{index:04d}.png"
            picture = Image.open(path).resize(size[::-1], Image.Resampling.BILINEAR)
            picture.save(path)
    Image.new("L", (9, 9)).save(copy / "masks" / "sample_0007.png")
    flags = ("--batch_size", 2, "--epochs", 2, "--image_size", 0, "--skip_bad")
    place = copy.parent.parent
    native = refusal(place, *flags)
    assert native.startswith(f"error: {copy}: --image_size 0 takes images as they are, but these ")
    assert native.count("\n") == 1 and not (place / "out").exists()
    flags += ("--crop", 24, "--soft_masks", "--augment", "--target_crops", 0.5, "--scale", 1.5,
              "--photometric")
    output = trains(place, *flags)
    assert "2 masks with grey" in output or "3 masks with grey" in output
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
    assert_same_state(place, other, MODELS[0])
