"""benchmarks/against_pytorch.py: a true table; and the scoring that it compares ours with."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import multiprocessing
import statistics
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT

from benchmarks.against_pytorch import Round, choose_entrants, compare, main
from benchmarks.official_scoring import OfficialScores
from benchmarks.sides import MEASURES, WAYS
from evaluation import Evaluator
from utils.data.synthetic import make_sample, write_sample_dataset
from utils.errors import UserError

KEYS = ("mIoU", "pixAcc", "precision", "recall", "fscore", "Pd", "Fa", "AUC")


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed (pip install -r requirements-align.txt)")


@needs_torch
def test_the_table_is_complete_and_its_ratios_are_those_of_its_medians(tmp_path):
    write_sample_dataset(tmp_path / "data" / "Tiny", 5, 3, 32)
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.against_pytorch", "--device", "cpu",
         "--model_name", "L2SKNet_UNet", "--size", "32", "--steps", "1", "--batch_size", "2",
         "--dataset_dir", tmp_path / "data",
         "--dataset_name", "Tiny", "--output_dir", tmp_path, "--csv", tmp_path / "a.csv",
         "--measures", "step", "latency", "throughput", "score", "epoch"],
        cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines() if line[:2] == "| "]
    assert rows[0] == ["model", "measure", "PyTorch", "ours", "ratio"]
    assert [row[1] for row in rows[1:]] == [
        "training step", "peak memory of training", "one image, latency", "batches, throughput",
        "predict and score the test list", "epoch with evaluation"]
    for _, measure, *cells in rows[1:]:
        pytorch, ours, ratio = (float(cell.split()[0]) for cell in cells)
        expected = ours / pytorch if measure.startswith("batches") else pytorch / ours
        assert ratio == pytest.approx(expected, rel=0.015, abs=0.006), measure
    assert "A waiting process used at most" in run.stdout
    assert "L2SKNet_UNet: initial weights" in run.stdout
    # The same weights and images on both sides.
    (apart,) = [line for line in run.stdout.splitlines() if "the scores of both are" in line]
    assert float(apart.split()[-4]) < 1e-3
    with open(tmp_path / "a.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["measure"] for record in records] == [row[1] for row in rows[1:]]
    assert all(float(record["ours_samples"].split()[0]) > 0 for record in records)


def assert_equal_scores(pairs):
    official, ours = OfficialScores(), Evaluator()
    for pred, mask in pairs:
        official.update(pred, mask)
        ours.update(pred, mask)
    found, expected = official.compute(), ours.compute()
    assert found.keys() == set(KEYS)
    for key in KEYS:
        assert found[key] == pytest.approx(expected[key], abs=1e-7), key
    return found


def test_official_scoring_equals_the_evaluator():
    rng = np.random.default_rng(3)

    def pairs():
        for _ in range(8):
            _, mask = make_sample(64, 64, rng)
            moved = np.roll(mask > 0, rng.integers(-2, 3, 2), (0, 1))
            noise = rng.random((64, 64)) ** 8
            yield np.float32(0.9 * np.where(moved, 1 - noise, noise)), mask > 0

    scores = assert_equal_scores(pairs())
    assert 0 < scores["Pd"] and 0 < scores["Fa"] and scores["AUC"] < 1


def test_official_scoring_equals_the_official_numbers(nudt):
    official = np.load(ROOT / "tests" / "fixtures" / "metrics.npz")
    masks = [np.asarray(Image.open(nudt / "masks" / f"{name}.png")) for name in official["names"]]
    scores = assert_equal_scores(zip(official["preds"].astype(np.float32), masks))
    for key in ("mIoU", "Pd", "Fa", "fscore"):
        assert scores[key] == pytest.approx(float(official[key]), abs=1e-9), key


def test_a_side_that_dies_is_named():
    pipe, other_end = multiprocessing.Pipe()
    other_end.close()
    with pytest.raises(UserError, match="^bf16 has died"):
        Round._receive(pipe, "bf16")


@needs_torch
def test_the_table_of_ways_holds_ours_to_the_best_of_each_precision(tmp_path):
    ways = ["eager", "channels_last", "bf16"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.against_pytorch", "--device", "cpu", "--ways", *ways,
         "--model_name", "L2SKNet_FPN", "--size", "32", "--steps", "2", "--batch_size", "2",
         "--output_dir", tmp_path, "--csv", tmp_path / "ways.csv"],
        cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    head, *rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()
                   if line[:2] == "| "]
    assert head == ["L2SKNet_FPN", "training step", "peak memory of training",
                    "one image, latency", "batches, throughput"]
    ours = ["ours, float32"]
    if "ours, bf16 is left out" not in run.stdout:  # the processor has the instructions
        ours.append("ours, bf16")
    assert [title for title, *_ in rows] == [
        *ways, *ours, *(title.replace("ours,", "ours to the best,") for title in ours)]
    with open(tmp_path / "ways.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == (len(ways) + len(ours)) * 4
    for record in records:
        samples = [float(value) for value in record["samples"].split()]
        assert len(samples) == (1 if record["unit"] == "MB" else 2)
        assert float(record["median"]) == pytest.approx(statistics.median(samples), rel=1e-5)
    cells = {title: dict(zip(head[1:], cells)) for title, *cells in rows}
    for title in ours:
        precision = title.split()[1]
        for measure in head[1:]:
            medians = {record["way"]: float(record["median"]) for record in records
                       if (record["measure"], record["precision"]) == (measure, precision)}
            mine = medians.pop(title)
            most = measure.startswith("batches")
            best = (max if most else min)(medians, key=medians.get)
            ratio, name = cells[f"ours to the best, {precision}"][measure].split(" ", 1)
            assert name == f"({best})"
            expected = mine / medians[best] if most else medians[best] / mine
            assert float(ratio) == pytest.approx(expected, abs=0.0051)


def entrants(*ways, precision="default"):
    return choose_entrants(argparse.Namespace(ways=list(ways), precision=precision))


def test_all_ways_or_a_few_take_turns_with_ours():
    assert [*entrants()] == [*WAYS, "ours, float32", "ours, bf16"]
    few = entrants("bf16", "eager")
    assert [*few] == ["eager", "bf16", "ours, float32", "ours, bf16"]
    assert [entrant.precision for entrant in few.values()] == ["float32", "bf16"] * 2
    pair = choose_entrants(argparse.Namespace(ways=None, precision="default"))
    assert [*pair] == ["PyTorch", "ours"]


def test_the_ways_are_all_different_and_called_as_they_are():
    assert len(set(WAYS.values())) == len(WAYS) == 11
    for name, way in WAYS.items():
        words = name.split("+")
        assert (way.compile, way.channels_last, way.autocast, way.benchmark) == tuple(
            word in words for word in ("compile", "channels_last", "bf16", "benchmark"))
        said = way.describe().replace("torch.compile", "compile").replace("bf16 autocast", "bf16")
        assert {*said.split(", ")} - {"eager", "float32"} == {
            word.replace("benchmark", "cudnn.benchmark") for word in words} - {"eager"}


def test_the_best_way_is_the_fastest_of_its_precision():
    all_ways = entrants()
    seconds = {"eager": 4.0, "channels_last": 3.0, "compile": 2.0, "bf16": 1.0,
               "bf16+channels_last": 1.5, "ours, float32": 1.6, "ours, bf16": 0.5}
    step, throughput = MEASURES["step"], MEASURES["throughput"]
    assert compare(step, seconds, all_ways, "float32") == ("compile", pytest.approx(1.25))
    assert compare(step, seconds, all_ways, "bf16") == ("bf16", pytest.approx(2))
    # Images a second: the most is the best.
    assert compare(throughput, seconds, all_ways, "float32") == ("eager", pytest.approx(0.4))
    del seconds["compile"]  # it has died
    assert compare(step, seconds, all_ways, "float32") == ("channels_last", pytest.approx(1.875))
    del seconds["ours, bf16"]
    assert compare(step, seconds, all_ways, "bf16") is None
    assert compare(step, {"ours, float32": 1.0}, all_ways, "float32") is None


class Stub:
    """A side without a framework, which takes a second for everything."""

    description, device = "a stub", "cpu"

    def __init__(self, name, args, device):
        pass

    def weights(self, _):
        return {}

    def prepare(self, key, weights):
        pass

    def turn(self, key, calls):
        return 1.0


class Unable(Stub):
    """It cannot start."""

    def __init__(self, name, args, device):
        raise UserError("not on this processor")


class OnGpu(Stub):
    """It says that it runs on a GPU, and takes memory of it."""

    device = "cuda"

    def peak(self):
        return 3_000_000

    def memory_note(self):
        return "2 MB in use"


class Mortal(Stub):
    """It dies in its first turn."""

    def turn(self, key, calls):
        sys.exit(3)


def stub_round(ways, **sides):
    args = argparse.Namespace(ways=ways, device="cpu", measures=["latency"], steps=2, passes=1)
    chosen = {title: entrant._replace(side=sides.get(title.partition(" ")[2], Stub))
              for title, entrant in entrants("eager").items()}
    chosen["bf16"] = chosen["eager"]._replace(side=sides.get("way", Stub))
    chosen["benchmark"] = entrants("benchmark")["benchmark"]._replace(side=Stub)  # needs a GPU
    return Round("Net", args, None, chosen)


def test_sides_that_cannot_start_or_die_are_left_out_and_named():
    with stub_round([], bf16=Unable, way=Mortal) as turns:
        ((measure, samples),) = turns.results()
    assert measure == MEASURES["latency"]
    assert samples == {"eager": [1000, 1000], "ours, float32": [1000, 1000]}
    assert turns.notes[1] == "Net: ours, bf16 is left out: not on this processor"
    assert turns.notes[2].startswith("Net: bf16 is left out: bf16 has died")


def test_a_way_for_gpus_takes_part_on_a_gpu():
    args = argparse.Namespace(ways=[], device="auto", measures=["step"], steps=1, passes=1)
    chosen = {title: entrants("benchmark")[title]._replace(side=OnGpu)
              for title in ("benchmark", "ours, float32")}
    with Round("Net", args, None, chosen) as turns:
        (_, samples), (memory, peaks) = turns.results()
    assert samples.keys() == peaks.keys() == {"benchmark", "ours, float32"}
    assert memory.title == "peak memory of training" and peaks["benchmark"] == [3]
    assert "Net: benchmark: 2 MB in use" in turns.notes


def test_without_ways_a_side_that_dies_ends_the_run():
    with pytest.raises(UserError, match="bf16 has died"), stub_round(None, way=Mortal) as turns:
        list(turns.results())


@needs_torch
@pytest.mark.parametrize("flags", [("--measures", "score"), ("--precision", "bf16")])
def test_ways_refuses_what_it_does_not_measure(flags):
    with pytest.raises((UserError, SystemExit)):  # argparse may know no bf16
        main(["--ways", "eager", *flags])
