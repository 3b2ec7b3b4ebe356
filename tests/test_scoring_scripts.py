"""cal_metrics.py and run_evaluate.py by their real command lines, on files in a folder."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from evaluation import REFERENCE, Evaluator
from utils.reports import Result, comparison_table, render_csv, render_markdown, render_text

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("a", "b", "c")


class Place:
    """A dataset of three images and the predictions of the model M for it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.mat = folder / "result" / "Tiny" / "mat" / "M"
        self.mat.mkdir(parents=True)
        self.masks, self.preds = {}, {}
        data = folder / "data" / "Tiny"
        for kind in ("images", "masks"):
            (data / kind).mkdir(parents=True)
        rng = np.random.default_rng(3)
        for index, name in enumerate(NAMES):
            mask = np.zeros((24, 40 + index), np.uint8)
            mask[5:8, 10 : 13 + index] = 1
            pred = np.where(mask == 1, 0.9, 0.4 * rng.random(mask.shape)).astype(np.float32)
            self.masks[name], self.preds[name] = mask, pred
            Image.fromarray(np.uint8(255 * pred)).save(data / "images" / f"{name}.png")
            Image.fromarray(255 * mask).save(data / "masks" / f"{name}.png")
            savemat(self.mat / f"{name}.mat", {"T": pred})
        self.preds["b"][15:17, 20:22] = 0.95  # a false alarm
        savemat(self.mat / "b.mat", {"T": self.preds["b"]})
        (data / "test.txt").write_text("\n".join(NAMES))

    def run(self, script, *flags):
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        command += ["--dataset_dir", self.folder / "data", "--output_dir", self.folder]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def score(self, *flags, model="M"):
        return self.run("cal_metrics.py", "--model_name", model, "--dataset_name", "Tiny", *flags)

    def refused(self, *flags, **options):
        result = self.score(*flags, **options)
        assert result.returncode == 2, result.stderr
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
        assert not list((self.folder / "result").glob("Tiny_*"))
        return result.stderr


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def value(report, heading):
    """The two figures of a line of a report."""
    line = next(line for line in report.splitlines() if line.startswith(heading + " "))
    return line.split()[1:]


def test_report_and_roc_are_those_of_the_evaluator(place):
    result = place.score()
    assert result.returncode == 0, result.stderr
    evaluator = Evaluator()
    for name in NAMES:
        evaluator.update(place.preds[name], place.masks[name])
    scores = evaluator.compute()

    (path,) = (place.folder / "result").glob("Tiny_M_*.txt")
    report = path.read_text(encoding="utf-8")
    assert report in result.stdout
    pixels = 24 * (40 + 41 + 42)
    assert f"3 images (0 without a target), 3 targets, {pixels} pixels; threshold 0.5" in report
    for key, heading in (("mIoU", "mIoU"), ("fscore", "F-score"), ("Pd", "Pd")):
        expected = [f"{scores[key]:.6f}", f"{scores['strict'][key]:.6f}"]
        assert value(report, heading) == expected
    assert value(report, "Fa") == [f"{4 / pixels:.2e}"] * 2
    assert value(report, "nIoU") == ["-", f"{scores['nIoU']:.6f}"]

    roc = loadmat(place.folder / "result" / "Tiny_M.mat")
    fpr, tpr = evaluator.roc()
    np.testing.assert_array_equal(roc["fpr"], fpr[None])
    np.testing.assert_array_equal(roc["tpr"], tpr[None])


def test_threshold_flag(place):
    result = place.score("--threshold", "0.949")
    assert "threshold 0.949" in result.stdout
    # Targets are at 0.9, the maximum of two images; in the third the false alarm has 0.95.
    assert value(result.stdout, "Pd") == [f"{2 / 3:.6f}", "0.000000"]


def test_official_spellings_and_several_models(place):
    other = place.mat.parent / "N"
    place.mat.rename(other)
    place.mat.mkdir()
    for name in NAMES:
        savemat(place.mat / f"{name}.mat", {"T": np.zeros_like(place.preds[name])})
    result = place.run(
        "cal_metrics.py", "--model_names", "M", "N", "--dataset_names", "Tiny"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.index("M on Tiny") < result.stdout.index("N on Tiny")
    assert [len(list((place.folder / "result").glob(f"Tiny_{m}_*.txt"))) for m in "MN"] == [1, 1]


def test_stale_files_are_ignored_with_a_word(place):
    clean = place.score().stdout
    savemat(place.mat / "old.mat", {"T": np.ones((3, 3))})
    result = place.score()
    assert result.returncode == 0
    assert "ignored, not in the test list: old.mat" in result.stdout
    assert "not in the test list" not in clean
    assert value(result.stdout, "mIoU") == value(clean, "mIoU")


def test_missing_predictions_are_named_and_counted(place):
    (place.mat / "b.mat").unlink()
    (place.mat / "c.mat").unlink()
    error = place.refused()
    assert "2 of 3 predictions missing: b.mat, c.mat;" in error and "test.py" in error


def test_model_without_predictions(place):
    error = place.refused(model="Other")
    assert "no predictions of Other" in error and "there are some of M" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"T": np.zeros((24, 40), np.float32)}, "prediction is 24x40 but its mask is 24x41"),
        ({"T": np.zeros((1, 24, 41), np.float32)}, "height x width, not of shape (1, 24, 41)"),
        ({"P": np.zeros((24, 41)), "Q": np.zeros(3)}, "holds no array T but P, Q"),
        ({"T": np.full((24, 41), 255.0)}, "values from 255.0 to 255.0"),
        ({"T": np.full((24, 41), np.nan)}, "NaN"),
        ({"T": "text"}, "height x width"),
        (b"not a .mat file at all", "not a .mat file that can be read"),
        (b"", "not a .mat file that can be read"),
    ],
)
def test_unusable_prediction_is_named(place, content, message):
    path = place.mat / "b.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    error = place.refused()
    assert str(path) in error and message in error


def test_several_unusable_predictions_are_counted(place):
    for name in NAMES:
        savemat(place.mat / f"{name}.mat", {"T": np.zeros((2, 2))})
    error = place.refused()
    assert "a.mat" in error and "and 2 more files" in error


def test_run_evaluate_without_a_trained_model(place):
    result = place.run("run_evaluate.py", "--dataset_name", "Tiny")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "run_train.py" in result.stderr
    assert not list((place.folder / "result").glob("Tiny_comparison.*"))


def test_run_evaluate_predicts_scores_and_compares(place):
    model, folder = "L2SKNet_1D_FPN", place.folder / "model" / "checkpoints" / "Tiny"
    path = folder / model / "best.npz"
    code = (
        "from model import build_model\n"
        "from utils.checkpoint import save_weights\n"
        f"meta = {{'history': [{{}}, {{}}, {{}}], 'recipe': {{'epochs': 5}}}}\n"
        f"save_weights(build_model({model!r}), {str(path)!r}, meta)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    result = place.run("run_evaluate.py", "--dataset_name", "Tiny", "--device", "cpu")
    assert result.returncode == 0, result.stderr

    evaluator = Evaluator()
    for name in NAMES:
        pred = loadmat(place.mat.parent / model / f"{name}.mat")["T"]
        assert pred.shape == place.masks[name].shape and 0 < pred.min() <= pred.max() < 1
        evaluator.update(pred, place.masks[name])
    saved = place.folder / "result"
    rows = list(csv.DictReader((saved / "Tiny_comparison.csv").read_text().splitlines()))
    ours = {row["model"]: row for row in rows if not row["source"].startswith("reference")}
    assert [row["source"] for row in ours.values()] == ["not trained"] * 3 + ["this run"]
    assert ours[model]["epoch"] == "3 of 5"
    assert float(ours[model]["fscore"]) == evaluator.compute()["fscore"]
    assert len(rows) - len(ours) == len(REFERENCE)
    assert "| this run | 3 of 5 |" in (saved / "Tiny_comparison.md").read_text()
    assert "this run" in result.stdout and "not trained" in result.stdout
    assert len(list(saved.glob(f"Tiny_{model}_*.txt"))) == 1
    assert (saved / f"Tiny_{model}.mat").is_file()


# The comparison of run_evaluate.py


@pytest.fixture
def results(place):
    evaluator = Evaluator()
    for name in NAMES:
        evaluator.update(place.preds[name], place.masks[name])
    return {"L2SKNet_UNet": Result(evaluator.compute(), "3 of 5"), "L2SKNet_FPN": None}


def test_comparison_sets_our_scores_beside_the_reference(results):
    headings, *rows = comparison_table(results)
    assert headings[:7] == ["model", "source", "epoch", "mIoU", "F-score", "Pd", "Fa"]
    assert [row[:3] for row in rows] == [
        ["L2SKNet_UNet", "this run", "3 of 5"],
        ["L2SKNet_UNet", "reference PyTorch", "best of 400"],
        ["L2SKNet_UNet", "reference Jittor", "best of 400"],
        ["L2SKNet_FPN", "not trained", "-"],
        ["L2SKNet_FPN", "reference PyTorch", "best of 400"],
        ["L2SKNet_FPN", "reference Jittor", "best of 400"],
    ]
    assert rows[0][3] == f"{results['L2SKNet_UNet'].scores['mIoU']:.4f}"
    assert rows[1][3:7] == ["0.9274", "0.9620", "0.9884", "2.80e-06"]
    assert set(rows[1][7:]) == set(rows[3][2:]) == {"-"}


def test_text_columns_are_aligned_and_markdown_is_a_table(results):
    rows, notes = comparison_table(results), ["first", "second"]
    table = render_text(rows, "Title", notes).splitlines()[2:-3]
    assert len(table) == len(rows) + 1 and set(table[1]) == {"-", " "}
    gaps = [i for i, mark in enumerate(table[1]) if mark == " "]
    assert all(line[i] == " " for line in table for i in gaps)

    markdown = render_markdown(rows, "Title", notes).splitlines()
    assert markdown[0] == "# Title" and markdown[-1] == "- second"
    table = [line for line in markdown if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(rows[0]) + 1}
    assert len(table) == len(rows) + 1


def test_csv_holds_every_score_at_full_precision(results):
    rows = list(csv.DictReader(render_csv("Tiny", results).splitlines()))
    ours, scores = rows[0], results["L2SKNet_UNet"].scores
    assert (ours["model"], ours["source"], ours["epoch"]) == ("L2SKNet_UNet", "this run", "3 of 5")
    for key in ("mIoU", "nIoU", "pixAcc", "fscore", "precision", "recall", "Pd", "Fa", "AUC"):
        assert float(ours[key]) == scores[key]
    assert float(ours["strict_Fa"]) == scores["strict"]["Fa"]
    assert rows[3]["source"] == "not trained" and rows[3]["mIoU"] == ""
    fpn = [row for row in REFERENCE if row.model == "L2SKNet_FPN"]
    assert [float(row["Fa"]) for row in rows[4:]] == [row.Fa for row in fpn]
