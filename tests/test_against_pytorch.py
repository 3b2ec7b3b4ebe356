"""benchmarks/against_pytorch.py: a true table; and the scoring that it compares ours with."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT

from benchmarks.against_pytorch import Pair
from benchmarks.official_scoring import OfficialScores
from evaluation import Evaluator
from utils.data.synthetic import make_sample, write_sample_dataset
from utils.errors import UserError

KEYS = ("mIoU", "pixAcc", "precision", "recall", "fscore", "Pd", "Fa", "AUC")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                    reason="PyTorch is not installed (pip install -r requirements-align.txt)")
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
    with pytest.raises(UserError, match="has died"):
        Pair._receive(pipe)
