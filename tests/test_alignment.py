"""Alignment with PyTorch: the twin, the comparison, its report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from scripts import ROOT, checkpoints, needs_torch, prints, refused, run, signalled, succeeds

import train_device0
from alignment import bounds, report
from alignment.stages import parameter_stages, stage_modules
from model import MODEL_NAMES
from utils.checkpoint.weights import read_arrays
from utils.data.synthetic import write_sample_dataset
from utils.training.logs import read_log


@needs_torch
def test_the_twin_is_the_official_network():
    command = [sys.executable, "-m", "alignment.twin_golden"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report) == 4
    for model, found in report.items():
        ours, official = found["parameters"]
        assert ours == official, model
        for name, (error, _) in found["float64"].items():
            assert error < 1e-10, f"{model} {name}"
        for name, (error, official) in found["float32"].items():
            assert error < 2 * official, f"{model} {name}"


def captures(model_name, seed=0):
    """Made-up captures of Jittor, PyTorch and the truth; the two are equally far from it."""
    rng = np.random.default_rng(seed)
    keys = [f"{kind}/{stage}" for kind in ("forward", "backward")
            for stage in stage_modules(model_name)]
    keys += [f"forward/{name}" for name in bounds.EXTRA]
    for module in stage_modules(model_name).values():
        keys += [f"gradients/{module}.0.weight", f"gradients/{module}.0.bias",
                 f"buffers/{module}.0.running_mean"]
        if module.startswith("contrast"):
            keys += [f"gradients/{module}.0.attn.avg_channel.1.weight"]
    truth = {key: rng.standard_normal(50) for key in keys}
    return [{key: array + noise * rng.uniform(-1, 1, 50) for key, array in truth.items()}
            for noise in (2e-5, 2e-5, 0)]


def rows_of(model_name, *batches):
    return bounds.judge([bounds.distances(model_name, *batch) for batch in batches])


def write_result(folder, model_name, rows, losses=(0.9, 0.8), epochs=None):
    """comparison.json as the PyTorch side writes it."""
    result = {
        "model": model_name, "dataset": "Tiny", "spoil": None, "recipe": {"lr": 5e-4, "batches": 1},
        "device": "cpu", "devices": {"Jittor": "a machine", "PyTorch": "a machine"},
        "stages": rows, "zero_gradients": ["Conv1.conv.0.bias"],
        "steps": {"jittor": list(losses), "pytorch": [0.9, 0.8], "drift": [0.0, 1e-3],
                  "drift_of_way": [0.0, 1e-2]},
    }
    (folder / model_name).mkdir(parents=True)
    (folder / model_name / "comparison.json").write_text(json.dumps(result))
    if epochs:
        runs = {"recipe": {"lr": 5e-4, "epochs": 1, "milestones": [1]}, "runs": epochs}
        (folder / model_name / "epochs.json").write_text(json.dumps(runs))


def test_distances_by_hand():
    jittor, pytorch, truth = captures("L2SKNet_UNet")
    name = "forward/encoder 1"
    truth[name] = np.array([0.0, -4.0, 2.0])
    pytorch[name] = np.array([0.0, -4.0, 2.5])
    jittor[name] = np.array([1.0, -4.0, 2.0])
    for capture, value in ((jittor, 3e-5), (pytorch, 4e-5), (truth, 0.0)):
        capture["gradients/Conv2.0.weight"] = np.array([2.0, value])
        capture["gradients/Conv2.0.bias"] = np.array([0.0, value])
    rows = {(row["kind"], row["stage"]): row
            for row in rows_of("L2SKNet_UNet", (jittor, pytorch, truth))}
    assert rows["forward", "encoder 1"] == {
        "kind": "forward", "stage": "encoder 1", "scale": 4.0, "jittor": 0.25, "pytorch": 0.125,
        "between": 0.25, "worst": [0.25, 0.125], "ratio": 2.0, "passed": True,
    }
    row = rows["gradients", "encoder 1"]
    assert row["jittor"] == pytest.approx(3e-5 * 2**0.5 / 2)
    assert row["ratio"] == pytest.approx(0.75)
    assert row["between"] == pytest.approx(1e-5 * 2**0.5 / 2)


def test_a_stage_is_judged_by_its_median():
    def verdict(flipped):
        batches = [captures("L2SKNet_1D_FPN", seed) for seed in range(5)]
        for jittor, _, _ in batches[:flipped]:
            jittor["backward/encoder 1"][7] += 1e-2  # as one ReLU decided otherwise
        rows = rows_of("L2SKNet_1D_FPN", *batches)
        assert all(row["passed"] for row in rows if row["stage"] != "encoder 1")
        return next(row for row in rows if (row["kind"], row["stage"]) == ("backward", "encoder 1"))

    few, most = verdict(2), verdict(3)
    assert few["passed"] and 0.5 < few["ratio"] < 2
    assert not most["passed"] and most["ratio"] > 100
    assert few["worst"][0] > 100 * few["worst"][1]


def test_luck_of_pytorch_is_not_asked_for():
    jittor, pytorch, truth = captures("L2SKNet_FPN")
    pytorch["forward/loss"] = truth["forward/loss"]
    jittor["forward/loss"] = truth["forward/loss"] * (1 + 1e-7)
    rows = rows_of("L2SKNet_FPN", (jittor, pytorch, truth))
    row = next(row for row in rows if row["stage"] == "loss")
    assert row["pytorch"] == 0 and row["ratio"] == pytest.approx(0.2, rel=1e-3)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_every_weight_belongs_to_one_stage(model_name):
    from model import build_model

    names = list(build_model(model_name).state_dict())
    groups = parameter_stages(model_name, names)
    assert sorted(name for members in groups.values() for name in members) == sorted(names)
    assert sum(stage.endswith("θ") for stage in groups) == 4


def test_report(tmp_path):
    good = rows_of("L2SKNet_UNet", captures("L2SKNet_UNet"))
    write_result(tmp_path, "L2SKNet_UNet", good)
    jittor, pytorch, truth = captures("L2SKNet_FPN")
    jittor["backward/decoder 1"][7] += 1e-2
    bad = rows_of("L2SKNet_FPN", (jittor, pytorch, truth))
    epochs = {name: [{"epoch": 1, "loss": loss, "mIoU": 0.25, "Pd": 0.5, "Fa": 2e-6}]
              for name, loss in (("Jittor", 0.5), ("PyTorch", 0.6))}
    write_result(tmp_path, "L2SKNet_FPN", bad, (0.9, 0.801), epochs)

    results = report.read_results(tmp_path)
    assert report.passed(results["L2SKNet_UNet"])
    assert not report.passed(results["L2SKNet_FPN"])
    verdicts = {name: good for name, (good, _) in report.checks(results["L2SKNet_FPN"]).items()}
    assert verdicts == {"forward": True, "backward": False, "buffers": True, "gradients": True,
                        "steps": False, "epochs": False}

    markdown, page = (path.read_text() for path in report.save(tmp_path))
    first, second = (line for line in markdown.splitlines() if line.startswith("| L2SKNet"))
    assert "FAIL" not in first and "not run" in first
    assert second.split()[1:4] == ["L2SKNet_FPN", "|", "FAIL"] and second.count("FAIL") == 4
    assert "FAIL 1.0e-03" in second and "FAIL 1.0e-01" in second
    failed = [line for line in markdown.splitlines() if line.endswith("FAIL |")]
    assert [line.split("|")[1].strip() for line in failed] == ["decoder 1"]
    for figure in ("L2SKNet_UNet/stages.png", "L2SKNet_UNet/steps.png", "L2SKNet_FPN/epochs.png"):
        assert f"({figure})" in markdown
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64") == 5
    assert page.count("FAIL") == markdown.count("FAIL")

    # Whole runs of another recipe, and a comparison of an older version, are not shown.
    path = tmp_path / "L2SKNet_FPN" / "epochs.json"
    path.write_text(path.read_text().replace("0.0005", "0.001"))
    path = tmp_path / "L2SKNet_UNet" / "comparison.json"
    path.write_text(path.read_text().replace(', "batches": 1', ""))
    results = report.read_results(tmp_path)
    assert list(results) == ["L2SKNet_FPN"] and "epochs" not in results["L2SKNet_FPN"]


def test_not_a_number_fails():
    jittor, pytorch, truth = captures("L2SKNet_1D_FPN")
    jittor["forward/encoder 2"][3] = np.nan
    rows = rows_of("L2SKNet_1D_FPN", (jittor, pytorch, truth))
    assert [(row["kind"], row["stage"]) for row in rows if not row["passed"]] == [
        ("forward", "encoder 2")]


SMALL = ("--model_name", "L2SKNet_UNet", "--batch_size", 3, "--image_size", 32)


@needs_torch
def test_the_command(tmp_path):
    write_sample_dataset(tmp_path / "data" / "Tiny", n_train=6, n_test=2, size=32)
    succeeds("alignment", tmp_path, *SMALL, "--steps", 2, "--batches", 3, "--epochs", 1)
    folder = tmp_path / "out" / "alignment" / "Tiny"
    result = report.read_results(folder)["L2SKNet_UNet"]
    assert len(result["steps"]["jittor"]) == len(result["steps"]["drift"]) == 2
    assert not list(folder.glob("*/exchange"))
    assert set(report.checks(result)) == {*bounds.FACTORS, "steps", "epochs"}
    assert "PASS" in (folder / "report.md").read_text()
    logs = {name: next((folder / name / "log").glob("Tiny_L2SKNet_UNet_*.txt"))
            for name in ("Jittor", "Pytorch")}
    ours, theirs = (read_log(path) for path in logs.values())
    assert len(ours) == len(theirs) == 1 and theirs[0].evaluated
    assert ours[0].loss == pytest.approx(theirs[0].loss, abs=1e-3)

    # The runs are there, so they are left alone; and a wrong weight is noticed.
    before = {path: path.stat().st_mtime_ns for path in logs.values()}
    spoilt = run("alignment", tmp_path, *SMALL, "--steps", 1, "--batches", 1, "--epochs", 1,
                 "--spoil", "Conv3.conv.4.weight")
    assert spoilt.returncode == 1, spoilt.stderr
    assert {path: path.stat().st_mtime_ns for path in logs.values()} == before
    result = report.read_results(folder)["L2SKNet_UNet"]
    verdicts = {row["stage"]: row["passed"] for row in result["stages"]
                if row["kind"] == "forward"}
    assert verdicts["encoder 0"] and verdicts["encoder 1"] and not verdicts["encoder 2"]

    before = sorted(folder.rglob("*"))
    assert refused("alignment", tmp_path, *SMALL, "--spoil", "Conv9.weight").startswith(
        "error: --spoil Conv9.weight")
    assert sorted(folder.rglob("*")) == before


@needs_torch
def test_pytorch_trains_alone_and_goes_on_where_it_was_stopped(tmp_path):
    model_name = "L2SKNet_FPN"  # it has dropout
    write_sample_dataset(tmp_path / "data" / "Tiny", n_train=9, n_test=2, size=32)
    small = ("--model_name", model_name, *SMALL[2:])
    flags = (*small, "--only_pytorch", "--epochs", 4, "--eval_every", 2, "--eval_last", 1, "--lr",
             1e-3)
    succeeds("alignment", tmp_path, *flags)
    folder = tmp_path / "out" / "alignment" / "Tiny"
    assert {path.name for path in folder.iterdir()} == {"Pytorch", model_name}
    (log,) = (folder / "Pytorch" / "log").iterdir()
    whole = read_log(log)
    assert [record.evaluated for record in whole] == [False, True, False, True]
    assert whole[3].loss < whole[0].loss

    # The initial weights are those of a training in Jittor.
    prints(train_device0.main, tmp_path, *small, "--epochs", 1, "--lr", 1e-30)
    trained = read_arrays(checkpoints(tmp_path, model_name) / "last.npz")
    for name, array in read_arrays(folder / model_name / "start.npz").items():
        if "running_" not in name and name != "meta":
            np.testing.assert_allclose(array, trained[name], atol=1e-20, err_msg=name)

    (tmp_path / "out").rename(tmp_path / "before")
    status, _ = signalled(signal.SIGTERM, "epoch 1/4", "alignment", tmp_path, *flags)
    assert status == 128 + signal.SIGTERM
    assert "epochs 2 to 4" in succeeds("alignment", tmp_path, *flags)
    (log,) = (folder / "Pytorch" / "log").iterdir()
    assert [(r.loss, r.mIoU) for r in read_log(log)] == [(r.loss, r.mIoU) for r in whole]

    assert "the 4 epochs of PyTorch are there" in succeeds("alignment", tmp_path, *flags,
                                                           "--compile")
    last = folder / "Pytorch" / "model" / "checkpoints" / "Tiny" / model_name / "last.pt"
    finished = last.read_bytes()
    _, output = signalled(signal.SIGTERM, "epoch 1/4", "alignment", tmp_path, *flags[:-1], 2e-3)
    (earlier,) = last.parent.glob("earlier_*.pt")
    assert f"the checkpoint of an earlier run is now {earlier}\n" in output
    assert earlier.read_bytes() == finished
    last.write_bytes(finished[:99])
    assert f"{last}: damaged, or no checkpoint of this command" in refused(
        "alignment", tmp_path, *flags)
    assert refused("alignment", tmp_path, *small, "--only_pytorch").startswith(
        "error: --only_pytorch: trains whole runs; ")


def test_without_pytorch(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('blocked')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("alignment", tmp_path, *SMALL)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and "requirements-align.txt" in done.stderr
