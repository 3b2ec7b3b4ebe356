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
from scripts import ROOT, SMALL, checkpoints, command, load, prints

import train_device0
from alignment import golden
from model import MODEL_NAMES
from utils.checkpoint.weights import read_arrays, read_meta
from utils.data.synthetic import write_sample_dataset
from utils.errors import UserError

MODEL = "L2SKNet_UNet"
TRAIN, TEST = 7, 5  # three batches of two images

pytestmark = pytest.mark.skipif(
    not (shutil.which("mpirun") and shutil.which("mpicc")),
    reason="no OpenMPI here (apt-get install openmpi-bin libopenmpi-dev)")

ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1",
               "OMPI_MCA_mpi_yield_when_idle": "1"}  # ranks may share a core: who waits lets go


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


UNEQUAL = {2: "L2SKNet_FPN:7x32x32",  # three images and four
           4: "L2SKNet_1D_UNet:3x32x32"}  # one rank has none
SMALL_BATCHES = [f"{model}:2x64x64" for model in MODEL_NAMES]
TASKS = {1: [*SMALL_BATCHES, *(task + order for task in UNEQUAL.values()
                               for order in ("", ":reversed"))],
         2: [UNEQUAL[2], *SMALL_BATCHES], 4: [UNEQUAL[4]]}


@pytest.fixture(scope="module")
def numbers(place):
    """What tests/rank_side.py computes, by number of ranks and task."""
    for ranks, tasks in TASKS.items():
        status, output = finish(start(
            ranks, [sys.executable, "tests/rank_side.py", place, place / "data", *tasks]))
        assert status == 0, output
    return lambda ranks, task: read_arrays(place / f"{ranks}-{task}.npz")


def distance(a, b, kind):
    """The largest difference of arrays of a kind, relative to their norms."""
    names = [name for name in a if name.startswith(kind)]
    assert names
    return max(np.linalg.norm(a[name] - b[name]) / max(np.linalg.norm(a[name]), 1e-6)
               for name in names)


def errors(fixture, shape, step):
    """The distances of a step from the float64 truth, and those of official float32."""
    results = {"train": step["train"], "loss": step["loss"]}
    for kind, entries in (("grad", "gradient"), ("buffer", "buffer")):
        keys = fixture[f"{shape}/{kind}_keys"]
        results[f"{kind}_norms"] = golden.norms(step[f"{entries}/{key}"] for key in keys)
    return golden.errors(fixture, shape, results)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_step_is_as_close_to_the_float64_truth_as_one_of_one_process(numbers, model):
    """One image on each rank, whose θ have batch statistics of one value each.

    Where one process itself misses the bounds of large images (processors without AVX-512,
    golden.SMALL_FLOORS), two ranks may be at most twice as far from the truth.
    """
    fixture, shape = golden.load(model), "2x64x64"
    one, ours = (errors(fixture, shape, numbers(ranks, f"{model}:{shape}")) for ranks in (1, 2))
    for name, (error, official) in ours.items():
        bound = max(golden.FACTORS.get(name, golden.FACTOR) * official,
                    golden.FLOORS.get(name, 0), 2 * one[name][0])
        assert error <= bound, f"{name}: {error:.2e}, official {official:.2e}"
        assert golden.share_of_bound(name, (error, official), shape) <= 1
    np.testing.assert_allclose(numbers(2, f"{model}:{shape}")["losses"],
                               fixture[f"{shape}/adam_losses"], rtol=0, atol=3e-4)


@pytest.mark.parametrize("ranks", UNEQUAL)
def test_shares_of_unequal_size_equal_one_process(numbers, ranks):
    one, ours = numbers(1, UNEQUAL[ranks]), numbers(ranks, UNEQUAL[ranks])
    # The same sums in another order: what rounding makes of ten steps.
    turned = numbers(1, f"{UNEQUAL[ranks]}:reversed")
    assert abs(ours["loss"] - one["loss"]) <= 1e-8
    np.testing.assert_allclose(ours["train"], one["train"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours["dropout"], one["dropout"], rtol=0, atol=1e-5)
    for kind in ("buffer", "trained", "losses"):
        assert distance(one, ours, kind) <= max(10 * distance(one, turned, kind), 2e-7)
    # Of the images each has been predicted by one of the ranks.
    assert json.loads(str(ours["scores"])) == json.loads(str(one["scores"]))


FLAGS = ("--model_name", MODEL, *SMALL, "--epochs", 2, "--lr", 2e-3)


def meta_of(folder, name="last.npz"):
    return read_meta(checkpoints(folder, MODEL) / name)


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


@pytest.fixture(scope="module")
def trained(place, cpu):
    """One process, and two ranks of which one dies and whose run is resumed by three."""
    one, many = place / "one", place / "many"
    for folder in (one, many):
        folder.mkdir()
        (folder / "data").symlink_to(place / "data")
    prints(train_device0.main, one, *FLAGS)
    words = command("train_device0.py", many, *FLAGS)
    status, output = finish(start(2, [words[0], "-c", DYING, *words[2:]]))
    assert status != 0 and re.search("rank 1 .*exited on signal 9", output), output
    return one, many


def test_a_run_whose_rank_died_goes_on_with_other_ranks_and_ends_like_one_process(trained):
    one, many = trained
    meta = meta_of(many)
    assert not meta["history"] and len(meta["losses"]) == 2
    status, output = on_ranks(3, "train_device0.py", many, *FLAGS, "--resume")
    assert status == 0 and output.count("resumed after epoch 0 and 2 batches") == 1
    assert output.count("\nepoch 2/2: loss") == 1
    losses, expected = ([record["loss"] for record in meta_of(folder)["history"]]
                        for folder in (many, one))
    assert losses == pytest.approx(expected, abs=1e-4) and len(losses) == 2
    assert meta_of(many, "best.npz")["recipe"] == meta_of(one, "best.npz")["recipe"]
    assert len(list((many / "out" / "log").iterdir())) == 1


def test_a_signal_to_one_rank_stops_all_at_the_same_step(place, tmp_path):
    (tmp_path / "data").symlink_to(place / "data")
    flags = ("--model_name", MODEL, *SMALL, "--epochs", 500, "--eval_every", 500)
    process = start(2, command("train_device0.py", tmp_path, *flags))
    for line in process.stdout:
        if line.startswith("epoch 1/500"):
            break
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    status, output = finish(process)
    assert status == 128 + signal.SIGTERM
    stopped = re.findall(r"stopped in epoch (\d+) after (\d) of 3 batches, all of it saved", output)
    assert len(stopped) == 1
    meta = meta_of(tmp_path)
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


FAILING = """
from utils import cli
from utils.errors import UserError
from utils.runtime import ranks, start
def main():
    start("cpu")
    {}
    ranks.gather(None)
cli.run(main, many=True)
"""


@pytest.mark.parametrize(("fails", "line"), [
    ('if ranks.rank(): raise UserError("nobody\'s fault")',
     r"error: nobody's fault \(rank 1 on .+\)"),
    ('ranks.check_same(ranks.rank() > 0, "images")',
     "error: rank 1: its images differ from rank 0's; .+")])
def test_an_error_on_one_rank_or_on_all_is_one_line_and_ends_all(fails, line):
    status, output = finish(start(2, [sys.executable, "-c", FAILING.format(fails)]))
    assert status == 2
    assert len(re.findall("^error: .*", output, re.M)) == 1
    assert re.search(f"^{line}\\s*$", output, re.M), output


def test_only_training_and_testing_take_ranks():
    done = subprocess.run([sys.executable, "run_train.py"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "OMPI_COMM_WORLD_SIZE": "2"})
    assert done.returncode == 2 and done.stderr == (
        "error: run_train.py: cannot run under mpirun, as only train_device0.py and test.py can; "
        "start it without mpirun\n")


# --------------------------------------------------------------------------------- predicting


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".mat"}  # which has the time in it


def test_the_test_list_is_shared(trained):
    one, many = trained
    weights = checkpoints(one, MODEL) / "best.npz"
    flags = ("--weights", weights, "--batch_size", 2)
    prints(load("test.py").main, one, *flags)
    status, output = on_ranks(2, "test.py", many, *flags)
    assert status == 0, output
    assert files_below(one / "out" / "result") == files_below(many / "out" / "result")
    assert len(list((many / "out" / "result" / "Tiny" / "mat" / MODEL).iterdir())) == TEST


def test_frames_are_shared_and_their_detections_merged(trained, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(trained[0] / "data" / "Tiny" / "images", images)
    (images / "sample_0004.png").write_bytes(b"no image")
    weights = checkpoints(trained[0], MODEL) / "best.npz"
    flags = ["--input", images, "--weights", weights, "--threshold", 0.3, "--boxes", "coco"]
    with pytest.raises(UserError, match="sample_0004.png"):
        prints(load("test.py").main, tmp_path, *flags, "--output", tmp_path / "one")
    status, output = on_ranks(2, "test.py", tmp_path, *flags, "--output", tmp_path / "ranks")
    assert status == 2 and output.count("sample_0004.png: cannot be read") == 1
    assert files_below(tmp_path / "ranks") == files_below(tmp_path / "one")
