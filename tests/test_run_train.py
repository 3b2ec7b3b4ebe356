"""run_train.py by its real command line: what it skips, resumes, survives and passes on."""

from __future__ import annotations

import re
import shutil
import signal

import pytest
from runs import train_tiny
from scripts import SIZE, SMALL, checkpoints, run, signalled, succeeds

import run_train
from utils import cli
from utils.data.synthetic import write_sample_dataset
from utils.errors import UserError
from utils.runtime import start
from utils.training.store import RunStatus, read_run

UNET, FPN, UNET_1D, FPN_1D = "L2SKNet_UNet", "L2SKNet_FPN", "L2SKNet_1D_UNet", "L2SKNet_1D_FPN"
RECIPE = {"batch_size": 2, "image_size": SIZE, "epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset, a finished run of the UNet and a stopped one of the 1-D FPN, of one epoch."""
    start("cpu")
    folder = tmp_path_factory.mktemp("run_train")
    write_sample_dataset(folder / "data" / "Tiny", 4, 2, SIZE)
    assert train_tiny(UNET, folder, RECIPE)
    assert not train_tiny(FPN_1D, folder, RECIPE, stop_at=1)
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """A copy, to go on from."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def last(place, model_name):
    return checkpoints(place, model_name) / "last.npz"


def states(output):
    """model → state and epochs, as the table at the end says."""
    lines = output[output.rindex("\nmodel "):].splitlines()[2:]
    rows = (re.match(r"(\S+) +Tiny +(\S.*?) +(-|\d+/\d+)(?: |$)", line) for line in lines)
    return {row[1]: (row[2], row[3]) for row in rows}


def test_skips_resumes_and_survives_a_failure(place):
    last(place, FPN).parent.mkdir(parents=True)
    last(place, FPN).write_bytes(b"damaged")
    finished = last(place, UNET).read_bytes()
    result = run("run_train.py", place, "--model_names", FPN, UNET, FPN_1D, *SMALL, "--epochs", 1)
    assert result.returncode == 1
    assert "error: " in result.stderr and "damaged" in result.stderr
    assert states(result.stdout) == {
        FPN: ("failed (2)", "-"), UNET: ("finished before", "1/1"), FPN_1D: ("done", "1/1")}
    assert "resumed after epoch 0 and 1 batches" in result.stdout
    assert last(place, UNET).read_bytes() == finished
    resumed = read_run(last(place, FPN_1D))
    (record,) = resumed.history
    assert resumed.meta["recipe"] == {
        "batch_size": 2, "epochs": 1, "lr": 1e-3, "seed": 42, "image_size": SIZE,
        "milestones": [1, 1], "augment": False, "crop": 0, "soft_masks": False,
        "target_crops": 0.0, "scale": 1.0, "photometric": False}
    assert f"1/1  {record.mIoU:.4f}   1 {record.Pd:.4f}" in result.stdout


def test_the_time_is_shared_out(place):
    output = succeeds("run_train.py", place, "--model_name", UNET, FPN_1D, *SMALL,
                      "--epochs", 500, "--milestones", 1, 1, "--stop_after", 0.03)
    epochs = len(read_run(last(place, UNET)).history)
    assert states(output) == {
        UNET: ("to be resumed", f"{epochs}/500"), FPN_1D: ("to be resumed", "0/1")}
    assert epochs >= 1 and "resumed after epoch 1 and 0 batches" in output


@pytest.mark.parametrize(("number", "group"), [
    (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_stops_the_training_which_saves(place, number, group):
    """Sent to run_train.py alone, or to its training too, as `timeout` and batch systems do."""
    returned, output = signalled(number, "epoch 2/", "run_train.py", place, "--model_name", UNET,
                                 FPN, *SMALL, "--epochs", 500, group=group)
    assert returned == 128 + number
    stopped = re.search(r"stopped in epoch (\d+) after (\d) of 2 batches, all of it saved", output)
    done = f"{int(stopped[1]) - 1}/500"
    assert states(output) == {UNET: ("stopped", done), FPN: ("not begun", "-")}
    assert read_run(last(place, UNET)).progress == (int(stopped[1]) - 1, int(stopped[2]))
    assert not last(place, FPN).exists()


# Which command


def arguments(place, *flags):
    """The flags as run_train.py sees them."""
    return run_train.parse(list(map(str, ("--output_dir", place / "out", *flags))))


def test_flags_of_training_are_passed_on(place):
    assert arguments(place).model_names == [UNET, FPN, UNET_1D, FPN_1D]
    flags = ("--dataset_dir", place / "data", "--device", "cpu", "--precision", "tf32",
             "--num_workers", 2, "--threshold", 0.4, "--eval_every", 5, "--eval_last", 3,
             "--batch_size", 4, "--epochs", 9, "--lr", 5e-4, "--seed", 1, "--image_size", 64,
             "--milestones", 3, 5, "--augment", "--crop", 48, "--soft_masks", "--skip_bad",
             "--target_crops", 0.5, "--scale", 2.0, "--photometric",
             "--stop_after", 10, "--resume")
    theirs = cli.make_parser("doc")
    cli.add_training(theirs)
    for given in (flags, ()):
        args = arguments(place, *given)
        assert None not in vars(args).values() or not given
        command = run_train.training_command(args, "Tiny", FPN, resume=bool(given))
        assert command[1].endswith("train_device0.py") and "--stop_after" not in command
        assert vars(theirs.parse_args(command[2:])) == {
            **vars(args), "model_names": [FPN], "dataset_names": ["Tiny"], "stop_after": None,
            "resume": "last" if given else None, "weights": None}


def test_a_missing_dataset_is_refused_before_anything_is_trained(place):
    before = sorted((place / "out").rglob("*"))
    with pytest.raises(UserError, match="no dataset 'Other' here; .* holds Tiny$"):
        run_train.main(["--output_dir", str(place / "out"), "--dataset_dir", str(place / "data"),
                        "--dataset_name", "Tiny", "Other"])
    assert sorted((place / "out").rglob("*")) == before
    assert not run_train.main(["--output_dir", str(place / "out"), "--dataset_dir", "/nowhere",
                               "--dataset_name", "Tiny", "--model_name", UNET])  # is finished


def test_what_is_resumed_and_what_begins_anew(place):
    def status(model_name, *flags):
        return run_train.status_of(arguments(place, *flags), "Tiny", model_name)

    assert status(UNET) is status(UNET, "--epochs", 1) is RunStatus.FINISHED
    # More epochs change the schedule, unless it is named.
    assert status(UNET, "--epochs", 1, "--milestones", 1, 1) is RunStatus.FINISHED
    assert status(UNET, "--epochs", 2) is RunStatus.NEW
    assert status(UNET, "--epochs", 2, "--milestones", 1, 1) is RunStatus.RESUME
    assert status(FPN_1D) is RunStatus.RESUME
    assert status(FPN_1D, "--lr", 1e-3, "--seed", 42) is RunStatus.RESUME  # as it was trained
    assert status(FPN_1D, "--lr", 5e-4) is RunStatus.NEW  # the old one is kept aside
    assert status(UNET, "--batch_size", 4) is RunStatus.NEW
    assert status(UNET, "--precision", "float32") is RunStatus.FINISHED
    assert status(UNET, "--threshold", 0.5) is RunStatus.FINISHED
    assert status(UNET, "--threshold", 0.3) is RunStatus.NEW
    assert status(FPN) is RunStatus.NEW
    last(place, UNET).write_bytes(b"damaged")
    assert status(UNET) is RunStatus.NEW  # its training will say so
