"""Several ranks of MPI on the CPU, by real command lines: equal to one process, they end as one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import ROOT, SMALL, command, refused, succeeds

from alignment import golden
from model import MODEL_NAMES
from utils.checkpoint.weights import read_arrays, read_meta
from utils.data.synthetic import write_sample_dataset
from utils.paths import Paths

MODEL = "L2SKNet_UNet"
TRAIN, TEST = 7, 5  # three batches of two images

pytestmark = pytest.mark.skipif(
    not (shutil.which("mpirun") and shutil.which("mpicc")),
    reason="no OpenMPI here (apt-get install openmpi-bin libopenmpi-dev)")

ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def start(ranks, words):
    """Starts a command on so many ranks, with all output in one stream."""
    return subprocess.Popen(["mpirun", "-np", str(ranks), *map(str, words)], cwd=ROOT, text=True,
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    """Its exit status and output; nothing may wait for ever."""
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()[0]) from None
    assert "Traceback" not in output, output
    return process.returncode, output


def on_ranks(ranks, script, folder, *flags):
    """Runs a script of ours on ranks to its end; returns exit status and output."""
    return finish(start(ranks, command(script, folder, *flags)))


@pytest.mark.parametrize("cores", [sorted(os.sched_getaffinity(0)), [min(os.sched_getaffinity(0))]])
def test_ranks_have_the_cores_that_mpirun_was_given(cores, monkeypatch):
    monkeypatch.delitem(ENVIRONMENT, "OMP_NUM_THREADS", raising=False)
    code = ("import os; from utils.runtime import ranks; ranks.prepare(None); "
            "line = f\"{sorted(os.sched_getaffinity(0))} {os.environ['OMP_NUM_THREADS']}\\n\"; "
            "os.write(1, line.encode())")  # in one piece: another rank's goes between two
    words = ["taskset", "-c", ",".join(map(str, cores)), "mpirun", "-np", "2", "sh", "-c",
             'exec "$@"', "sh", sys.executable, "-c", code]
    result = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stdout.splitlines() == 2 * [f"{cores} {max(1, len(cores) // 2)}"], result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_sample_dataset(folder / "data" / "Tiny", TRAIN, TEST, 32)
    return folder


@pytest.fixture(scope="module")
def numbers(place):
    """What tests/rank_side.py computes, by number of ranks, network, shape, order of the images."""
    def compute(ranks, *arguments):
        path = place / f"{'-'.join((str(ranks), *arguments))}.npz"
        if not path.exists():
            model, shape, *order = arguments
            words = [sys.executable, "tests/rank_side.py", path, model, shape, place / "data"]
            words += order
            if ranks == 1:
                subprocess.run([*map(str, words)], cwd=ROOT, check=True)
            else:
                status, output = finish(start(ranks, words))
                assert status == 0, output
        return read_arrays(path)

    return compute


def distance(a, b, kind):
    """The largest difference of arrays of a kind, relative to their norms."""
    names = [name for name in a if name.startswith(kind)]
    assert names
    return max(np.linalg.norm(a[name] - b[name]) / max(np.linalg.norm(a[name]), 1e-6)
               for name in names)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_step_is_as_close_to_the_float64_truth_as_one_of_one_process(numbers, model):
    """One image on each rank, whose θ have batch statistics of one value each."""
    fixture, shape = golden.load(model), "2x64x64"
    ours = numbers(2, model, shape)
    results = {"train": ours["train"], "loss": ours["loss"]}
    for kind, entries in (("grad", "gradient"), ("buffer", "buffer")):
        keys = fixture[f"{shape}/{kind}_keys"]
        results[f"{kind}_norms"] = golden.norms(ours[f"{entries}/{key}"] for key in keys)
    for name, (error, official) in golden.errors(fixture, shape, results).items():
        factor = 5 if name == "gradient, largest" else 3  # as in tests/test_parity.py
        floor = {"training output": 2e-7, "loss": 6e-8}.get(name, 0)
        assert error <= max(factor * official, floor), f"{name}: {error:.2e}, {official:.2e}"
    np.testing.assert_allclose(ours["losses"], fixture[f"{shape}/adam_losses"], rtol=0, atol=3e-4)


@pytest.mark.parametrize(("ranks", "model", "shape"), [
    (2, "L2SKNet_FPN", "7x32x32"),  # three images and four
    (4, "L2SKNet_1D_UNet", "3x32x32"),  # one rank has none
])
def test_shares_of_unequal_size_equal_one_process(numbers, ranks, model, shape):
    one, ours = numbers(1, model, shape), numbers(ranks, model, shape)
    # The same sums in another order: what rounding makes of ten steps.
    turned = numbers(1, model, shape, "reversed")
    assert abs(ours["loss"] - one["loss"]) <= 1e-8
    np.testing.assert_allclose(ours["train"], one["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours["dropout"], one["dropout"], rtol=0, atol=1e-5)
    for kind in ("buffer", "trained", "losses"):
        assert distance(one, ours, kind) <= max(10 * distance(one, turned, kind), 2e-7)
    # Of the images each has been predicted by one of the ranks.
    assert json.loads(str(ours["scores"])) == json.loads(str(one["scores"]))


FLAGS = ("--model_name", MODEL, *SMALL, "--epochs", 2, "--lr", 2e-3)


def history(folder):
    return read_meta(Paths(folder / "out").checkpoints("Tiny", MODEL) / "last.npz")["history"]


@pytest.fixture(scope="module")
def trained(place):
    """One process, and two ranks that are stopped after a step and resumed by three."""
    one, many = place / "one", place / "many"
    for folder in (one, many):
        folder.mkdir()
        (folder / "data").symlink_to(place / "data")
    succeeds("train_device0.py", one, *FLAGS)
    outputs = [on_ranks(2, "train_device0.py", many, *FLAGS, "--stop_after", 1e-4),
               on_ranks(3, "train_device0.py", many, *FLAGS, "--resume")]
    return one, many, outputs


def test_a_run_that_goes_on_with_other_ranks_ends_like_one_process(trained):
    one, many, ((stopped, before), (finished, after)) = trained
    assert stopped == 0 and before.count("stopped in epoch 1 after 1 of 3 batches") == 1
    assert finished == 0 and after.count("resumed after epoch 0 and 1 batches") == 1
    assert after.count("\nepoch 2/2: loss") == 1
    for ours, theirs in zip(history(many), history(one)):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert len(history(many)) == 2
    recipes = [read_meta(Paths(folder / "out").checkpoints("Tiny", MODEL) / "best.npz")["recipe"]
               for folder in (one, many)]
    assert recipes[0] == recipes[1]
    assert len(list((many / "out" / "log").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(trained, tmp_path, number):
    (tmp_path / "data").symlink_to(trained[0] / "data")
    flags = ("--model_name", MODEL, *SMALL, "--epochs", 500, "--eval_every", 500)
    process = start(2, command("train_device0.py", tmp_path, *flags))
    for line in process.stdout:
        if line.startswith("epoch 1/500"):
            break
    if number == signal.SIGUSR1:  # mpirun hands it on to all
        process.send_signal(number)
    else:
        os.kill(ranks_of(process)[1], number)
    status, output = finish(process)
    assert status == 128 + number
    stopped = re.findall(r"stopped in epoch (\d+) after (\d) of 3 batches, all of it saved", output)
    assert len(stopped) == 1
    meta = read_meta(Paths(tmp_path / "out").checkpoints("Tiny", MODEL) / "last.npz")
    assert len(meta["history"]) == int(stopped[0][0]) - 1
    assert len(meta["losses"]) == int(stopped[0][1])


def ranks_of(process):
    """The processes of all ranks, in their order."""
    found = {}
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = (task / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == process.pid:
                words = dict(entry.partition("=")[::2] for entry in
                             (task / "environ").read_text().split("\0"))
                found[int(words["OMPI_COMM_WORLD_RANK"])] = int(task.name)
        except (OSError, KeyError):
            continue
    return found


DYING = """
import os, train_device0
from utils import cli
from utils.runtime import ranks
from utils.training import stop, store
store.SAVED_EVERY, requested, steps = -1, stop.StopRequest.requested, []
def die_or_ask(self):
    steps.append(None)
    if ranks.rank() == 1 and len(steps) == 3:
        os.kill(os.getpid(), 9)
    return requested(self)
stop.StopRequest.requested = die_or_ask
cli.run(train_device0.main, many=True)
"""


def test_a_rank_that_dies_ends_the_run_and_what_was_saved_goes_on(trained, tmp_path):
    (tmp_path / "data").symlink_to(trained[0] / "data")
    words = command("train_device0.py", tmp_path, *FLAGS)
    status, output = finish(start(2, [words[0], "-c", DYING, *words[2:]]))
    assert status != 0 and re.search("rank 1 .*exited on signal 9", output), output
    meta = read_meta(Paths(tmp_path / "out").checkpoints("Tiny", MODEL) / "last.npz")
    assert not meta["history"] and len(meta["losses"]) == 2
    assert "resumed after epoch 0 and 2 batches" in succeeds(
        "train_device0.py", tmp_path, *FLAGS, "--resume")
    for ours, theirs in zip(history(tmp_path), history(trained[0])):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


FAILING = """
from utils import cli
from utils.errors import UserError
from utils.runtime import ranks, start
def main():
    start("cpu")
    if ranks.rank() in ({}): raise UserError("nobody's fault")
    ranks.gather(None)
cli.run(main, many=True)
"""


@pytest.mark.parametrize(("failing", "line"), [
    ("1,", r"error: nobody's fault \(rank 1 on .+\)"), ("0, 1", "error: nobody's fault")])
def test_an_error_is_one_line_and_ends_all(failing, line):
    status, output = finish(start(2, [sys.executable, "-c", FAILING.format(failing)]))
    assert status == 2
    assert len(re.findall("^error: .*", output, re.M)) == 1
    assert re.search(f"^{line}\\s*$", output, re.M), output


def test_ranks_that_read_other_images_are_told(place):
    worker = FAILING.format("").replace("ranks.gather(None)",
                                        "ranks.check_same(ranks.rank() > 0, 'images')")
    status, output = finish(start(2, [sys.executable, "-c", worker]))
    assert status == 2 and output.count("error: rank 1 has images of its own") == 1


def test_only_training_and_testing_take_ranks(place):
    status, output = on_ranks(2, "run_train.py", place)
    assert status == 2 and output.count("error: mpirun is for train_device0.py and test.py") == 1


def test_one_rank_is_one_process(place):
    worker = ("from utils.runtime import start, jt; start('cpu'); "
              "print(jt.in_mpi, jt.mpi, len(jt.ones(3)))")
    status, output = finish(start(1, [sys.executable, "-c", worker]))
    assert status == 0 and "False None 3" in output


# --------------------------------------------------------------------------------- predicting


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".mat"}  # which has the time in it


def test_the_test_list_is_shared(trained):
    one, many, _ = trained
    weights = Paths(one / "out").checkpoints("Tiny", MODEL) / "best.npz"
    flags = ("--weights", weights, "--batch_size", 2)
    succeeds("test.py", one, *flags)
    status, output = on_ranks(2, "test.py", many, *flags)
    assert status == 0, output
    assert files_below(one / "out" / "result") == files_below(many / "out" / "result")
    assert len(list((many / "out" / "result" / "Tiny" / "mat" / MODEL).iterdir())) == TEST


@pytest.fixture(scope="module")
def frames(trained, tmp_path_factory):
    """A folder of images, one of them damaged, and what one process finds."""
    folder = tmp_path_factory.mktemp("frames")
    source = trained[0] / "data" / "Tiny" / "images"
    (folder / "images").mkdir()
    for path in source.iterdir():
        shutil.copy(path, folder / "images")
    (folder / "images" / "sample_0004.png").write_bytes(b"no image")
    weights = Paths(trained[0] / "out").checkpoints("Tiny", MODEL) / "best.npz"
    flags = ["--input", folder / "images", "--weights", weights, "--threshold", 0.3,
             "--boxes", "coco"]
    message = refused("test.py", folder, *flags, "--output", folder / "one")
    assert "sample_0004.png" in message
    return folder, flags


def test_frames_are_shared_and_their_detections_merged(frames):
    folder, flags = frames
    status, output = on_ranks(2, "test.py", folder, *flags, "--output", folder / "ranks")
    assert status == 2 and output.count("sample_0004.png: cannot be read") == 1
    assert files_below(folder / "ranks") == files_below(folder / "one")
