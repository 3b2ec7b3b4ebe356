"""cal_metrics.py, qualitative.py and run_evaluate.py by their flags, on files in a folder."""

from __future__ import annotations

import base64
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from scripts import ROOT, complaint, is_of, prints, read_table

import cal_metrics
import qualitative
import run_evaluate
from evaluation import Evaluator
from evaluation.operating import GRID
from model import build_model
from utils import cli
from utils.checkpoint import save_weights
from utils.errors import UserError
from utils.predict.prediction_files import (
    find_predictions,
    prediction_folders,
    read_prediction,
)
from utils.report.curves import save_score_curves
from utils.report.reference import REFERENCE
from utils.report.scores import ModelScores, save_tables, worst_first
from utils.report.tables import markdown_table

NAMES = ("a", "b", "c")


class Place:
    """A dataset of three images and the predictions of the model M for it."""

    def __init__(self, folder: Path):
        self.folder, self.out, self.result = folder, folder / "out", folder / "out" / "result"
        self.mat = self.result / "Tiny" / "mat" / "M"
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
        self.preds["b"][15:17, 20:22] = 0.95  # a false alarm
        for name in NAMES:
            savemat(self.mat / f"{name}.mat", {"T": self.preds[name]})
        (data / "test.txt").write_text("\n".join(NAMES))

    def evaluator(self):
        evaluator = Evaluator()
        for name in NAMES:
            evaluator.update(self.preds[name], self.masks[name])
        return evaluator

    def run(self, script, *flags):
        """Runs a script with the dataset Tiny; returns what it prints."""
        return prints(script.main, self.folder, *flags)

    def score(self, *flags, model="M"):
        return self.run(cal_metrics, "--model_name", model, *flags)

    def refused(self, *flags, script=cal_metrics):
        """The error of a script that must write nothing."""
        message = complaint(self.run, script, *flags)
        assert not list(self.result.glob("Tiny_*"))
        return message


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def value(report, heading):
    """The two figures of a line of a report."""
    return re.search(rf"^\| {heading} +\| +(\S+) \| +(\S+) \|", report, re.MULTILINE).groups()


def test_report_and_roc_are_those_of_the_evaluator(place):
    printed = place.score()
    evaluator = place.evaluator()
    scores = evaluator.compute()

    (path,) = place.result.glob("Tiny_M_*.txt")
    report = path.read_text(encoding="utf-8")
    assert report in printed
    pixels = 24 * (40 + 41 + 42)
    assert f"3 images (0 without a target), 3 targets, {pixels} pixels; threshold 0.5" in report
    for key, heading in (("mIoU", "mIoU"), ("fscore", "F-score"), ("Pd", "Pd")):
        assert value(report, heading) == (f"{scores[key]:.6f}", f"{scores['strict'][key]:.6f}")
    assert value(report, "Fa") == (f"{4 / pixels:.2e}",) * 2
    assert value(report, "nIoU") == ("-", f"{scores['nIoU']:.6f}")
    assert f"3 .mat in {place.mat}" in report
    for heading, over in (("mIoU", f"{pixels} pixels"), ("nIoU", "3 images"), ("Pd", "3 targets")):
        assert re.search(rf"^\| {heading} .*\| {over} *\|$", report, re.MULTILINE)

    roc = loadmat(place.result / "Tiny_M.mat")
    fpr, tpr = evaluator.roc()
    np.testing.assert_array_equal(roc["fpr"], fpr[None])
    np.testing.assert_array_equal(roc["tpr"], tpr[None])


def test_threshold_flag_and_files_beside_the_predictions(place):
    savemat(place.mat / "old.mat", {"T": np.ones((3, 3))})
    printed = place.score("--threshold", "0.949")
    assert "threshold 0.949" in printed and "ignored, not in the test list: old.mat\n" in printed
    # Targets are at 0.9, the maximum of two images; in the third the false alarm has 0.95.
    assert value(printed, "Pd") == (f"{2 / 3:.6f}", "0.000000")


def test_thresholds_for_wanted_rates_of_false_alarms(place, capsys):
    pixels = 24 * (40 + 41 + 42)
    # Noise below 0.4, targets of 36 pixels at 0.9, a false alarm of 4 pixels at 0.95.
    table = place.score("--fa", "1e-6", "2e-3").partition("Thresholds for a wanted Fa\n\n")[2]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[:4]]
    assert cells[0] == ["wanted Fa", "threshold", "Fa", "Pd", "mIoU", "5 % to 95 %"]
    low, high = (min(step for step in GRID if step > level) for level in (0.4, 0.95))
    assert cells[2][:5] == ["0.002", f"{low:g}", f"{4 / pixels:.2e}", "1.0000", "0.9000"]
    assert cells[3][:5] == ["1e-06", f"{high:g}", "0.00e+00", "0.0000", "0.0000"]
    assert cells[3][5].endswith(f" to {high:g}") and float(cells[3][5].split()[0]) <= low
    sweep = {row["threshold"]: row for row in read_table(place.result / "Tiny_M_pd_fa.csv")}
    assert len(sweep) == 101 and list(map(float, sweep)) == sorted(map(float, sweep))
    strict = place.evaluator().compute()["strict"]
    assert [float(sweep["0.5"][key]) for key in ("Pd", "Fa", "mIoU")] == [
        strict[key] for key in ("Pd", "Fa", "mIoU")]

    place.preds["b"][15:17, 20:22] = 1
    savemat(place.mat / "b.mat", {"T": place.preds["b"]})
    printed = place.score("--fa", "1e-6")
    assert re.search(r"^\| +1e-06 +\| +none +\| +- ", printed, re.M)
    assert f"1e-06: not reached; the lowest Fa is {4 / pixels:.2e}, at threshold 0." in printed
    for value in ("0", "2", "nan", "low"):
        with pytest.raises(SystemExit) as stop:
            place.score("--fa", value)
        assert stop.value.code == 2 and "argument --fa: " in capsys.readouterr().err


def test_targets_by_size_in_the_report_and_in_the_tables(place):
    printed = place.score("--by_size")  # three targets of 9, 12 and 15 pixels, all drawn exactly
    for area, count, score in (("1-9", 1, "1.0000"), ("10-25", 2, "1.0000"), (">81", 0, "-")):
        assert re.search(rf"^\| +{area} \| +{count} \| +{score} \| +{score} \|$", printed, re.M)
    printed = place.run(cal_metrics, "--pred", place.mat, place.mat, "--model_name", "A", "B",
                        "--by_size")
    table = (place.result / "Tiny_models.md").read_text()
    assert table in printed
    assert re.search(r"^\| area, pixels \| targets \| +A: Pd \| A: IoU \| +B: Pd \| B: IoU \|$",
                     table, re.M)
    for row in read_table(place.result / "Tiny_models.csv"):
        assert (row["targets_10-25"], row["Pd_10-25"], row["IoU_1-9"], row["targets_>81"]) == (
            "2", "1.0", "1.0", "0")


def test_predictions_that_are_not_there(place):
    error = place.refused("--model_name", "Other")
    assert "no predictions of Other" in error and "there are some of M" in error
    for name in "bc":
        (place.mat / f"{name}.mat").unlink()
    error = place.refused("--model_name", "M")
    assert "2 of 3 predictions missing: b, c (.mat, .npy, .png);" in error and "test.py" in error


# The last one claims 4 TB.
@pytest.mark.parametrize(("content", "message"), [
    ({"T": np.zeros((24, 40), np.float32)}, "prediction is 24x40 but its mask is 24x41"),
    ({"T": np.zeros((2, 24, 41), np.float32)}, "height x width, not of shape (2, 24, 41)"),
    ({"P": np.zeros((24, 41)), "Q": np.zeros(3)}, "holds no array T but P, Q"),
    ({}, "holds no array T but nothing"),
    ({"T": np.full((24, 41), 255.0)}, "values from 255.0 to 255.0"),
    ({"T": np.full((24, 41), np.nan)}, "NaN or infinite"),
    ({"T": "text"}, "holds a char, not real numbers"),
    ({"T": {"a": np.zeros(3)}}, "holds a struct, not real numbers"),
    (b"not a .mat file at all", "not a .mat file that can be read"),
    (b"", "not a .mat file that can be read"),
    (np.array([{"an": "object"}]), "not a .npy file that can be read"),
    (b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, "
     b"'shape': (1000000, 1000000)}\n", "not a .npy file that can be read"),
])
def test_unusable_prediction_is_named(place, content, message):
    path = place.mat / "b.mat"
    if "npy" in message:
        path.unlink()
        path = path.with_suffix(".npy")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        savemat(path, content)
    else:
        np.save(path, content, allow_pickle=True)
    error = place.refused("--model_name", "M")
    assert str(path) in error and message in error


def test_several_unusable_predictions_are_counted(place):
    for name in NAMES:
        savemat(place.mat / f"{name}.mat", {"T": np.zeros((2, 2))})
    error = place.refused("--model_name", "M")
    assert "a.mat" in error and "and 2 more files" in error


# MATLAB files byte by byte


START = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def element(code, data):
    return struct.pack("<II", code, len(data)) + data + bytes(-len(data) % 8)


def header(flags, dims, name):
    """What stands before the numbers of an array."""
    return (element(6, struct.pack("<II", flags, 0)) + element(5, struct.pack("<ii", *dims))
            + element(1, name))


def array_file(array, flags, number, dims=None, packed=None):
    """A file of the array `T`, of the class in `flags`, its numbers said to be of type `number`.

    packed: compress it, with this number of zeros after it.
    """
    whole = element(14, header(flags, dims or array.shape, b"T")
                    + element(number, array.tobytes("F")))
    if packed is not None:
        whole = zlib.compress(whole + bytes(packed))
        whole = struct.pack("<II", 15, len(whole)) + whole
    return START + whole


def nested_cells(depth):
    """A file of cells in cells."""
    parts, size = [], 0  # from the innermost
    for level in range(depth):
        head = header(1, (1, 1), b"T" if level == depth - 1 else b"")
        parts.append(struct.pack("<II", 14, len(head) + size) + head)
        size += len(parts[-1])
    return START + b"".join(reversed(parts))


NONE = np.zeros((0, 0))
LIES = [
    (nested_cells(200_000), "holds a cell, not real numbers"),  # SciPy's stack overflows
    (array_file(NONE, 6, 9, (2**15, 2**15), packed=10**7), "32768x32768 is no probability map"),
    (array_file(NONE, 6, 9, (-1, 5)), "-1x5 is no probability map"),
    (array_file(NONE, 6, 9, (4000, 4000)), "not a .mat file that can be read"),
    (array_file(NONE, 6, 0, (1, 0)), "1x0 is no probability map"),
    (array_file(NONE, 6, 0, (1, 1)), "numbers of the unknown type 0"),  # SciPy: a null pointer
    (array_file(NONE, 5, 9, (1, 1)), "holds a sparse, not real numbers"),
]


def test_mat_files_that_lie_are_refused_by_their_header(tmp_path):
    paths = [tmp_path / f"{index}.mat" for index in range(len(LIES))]
    for path, (content, _) in zip(paths, LIES):
        path.write_bytes(content)
    # In a process of its own, which SciPy would end.
    code = ("import sys; from utils.predict.prediction_files import read_prediction\n"
            "for path in sys.argv[1:]:\n"
            "    try:\n        read_prediction(path)\n"
            "    except ValueError as error:\n        print(error)")
    result = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for path, line, (_, message) in zip(paths, result.stdout.splitlines(), LIES):
        assert line.startswith(f"{path}: ") and message in line
    assert result.stdout.count("\n") == len(LIES)


@pytest.mark.parametrize(("form", "packed"), [("5", True), ("5", False), ("4", False)])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path, form, packed):
    rng = np.random.default_rng(0)
    kinds = "f4 f8 u1 i2 u2 i4".split() + ("u4 i8 u8 ? i1".split() if form == "5" else [])
    for kind in kinds:
        array = rng.integers(0, 2, (5, 3)).astype(kind)
        savemat(tmp_path / "a.mat", {"other": rng.random((300, 7)), "T": array, "name": "text"},
                do_compression=packed, format=form)
        assert_read(tmp_path / "a.mat", array, kind)


def assert_read(path, array, kind):
    full = {"u1": 255, "u2": 65535}.get(kind, 1)
    read = read_prediction(path)
    np.testing.assert_array_equal(read, array.astype("f4") / np.float32(full))
    assert read.dtype == (np.float32 if full > 1 else kind)


@pytest.mark.parametrize("packed", [0, None])
def test_small_integers_that_matlab_stores_in_fewer_bytes(tmp_path, packed):
    array, path = np.array([[0, 1, 0], [1, 1, 0]]), tmp_path / "a.mat"
    for kind, flags, stored, number in (
        ("f8", 6, "u1", 2), ("f8", 6, "i2", 3), ("f8", 6, "f8", 9), ("f4", 7, "u1", 2),
        ("u1", 9, "u1", 2), ("u2", 11, "u1", 2), ("u2", 11, "u2", 4), ("i4", 12, "u1", 2),
        ("?", 0x209, "u1", 2), ("?", 0x206, "u1", 2),
    ):
        path.write_bytes(array_file(array.astype(stored), flags, number, packed=packed))
        assert loadmat(path, mat_dtype=True)["T"].dtype == kind
        assert_read(path, array, kind)


# Predictions of any method


def other_formats(place, folder):
    """The predictions of M in another form for each image, in 8 and 16 bits and as bool."""
    folder.mkdir()
    a, b, c = (place.preds[name] for name in NAMES)
    savemat(folder / "a.mat", {"prob": a[None, None]})
    Image.fromarray(np.rint(b * 65535).astype(np.uint16)).save(folder / "b.png")
    np.save(folder / "c.npy", (c > 0.5)[..., None])
    evaluator = Evaluator()
    evaluator.update(a, place.masks["a"])
    evaluator.update(np.float32(np.rint(b * 65535)) / np.float32(65535), place.masks["b"])
    evaluator.update(c > 0.5, place.masks["c"])
    return evaluator.compute()


def test_predictions_of_any_folder_and_format_stand_in_one_table_with_others(place):
    scores = other_formats(place, place.folder / "theirs")
    printed = place.run(cal_metrics, "--pred", "theirs")
    assert "theirs on Tiny" in printed
    assert "1 .mat and 1 .png and 1 .npy in theirs" in printed
    for key, heading in (("fscore", "F-score"), ("AUC", "AUC"), ("hIoU", "hIoU")):
        assert value(printed, heading) == (f"{scores[key]:.6f}", f"{scores['strict'][key]:.6f}")
    assert (place.result / "Tiny_theirs.mat").is_file()

    printed = place.run(cal_metrics, "--pred", place.mat, "theirs", "--model_names", "Ours",
                        "Theirs")
    assert printed.index("Ours on Tiny") < printed.index("Theirs on Tiny")
    rows = read_table(place.result / "Tiny_models.csv")
    assert [row["model"] for row in rows] == ["Ours", "Theirs"]
    assert float(rows[1]["strict_hIoU"]) == scores["strict"]["hIoU"]
    counts = {"threshold": "0.5", "images": "3", "images_without_target": "0", "targets": "3"}
    assert counts.items() <= rows[0].items() and rows[0]["pixels"] == str(24 * (40 + 41 + 42))
    table = (place.result / "Tiny_models.md").read_text()
    assert "| Theirs | " in table and "3 targets, " in table and "reference" not in table
    assert Image.open(place.result / "Tiny_curves.png").size[0] > 2000
    assert (place.result / "Tiny_curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_suffix_of_all_predictions_is_taken_off_and_said(place):
    folder = place.folder / "DNANet"  # as it writes them: prediction, truth, and the image
    folder.mkdir()
    for name in NAMES:
        detected = np.uint8(255 * (place.preds[name] > 0.5))
        Image.fromarray(detected).save(folder / f"{name}_Pred.png")
        Image.fromarray(255 * place.masks[name]).save(folder / f"{name}_GT.png")
        Image.fromarray(255 - detected).save(folder / f"{name}.png")
    shown, ours = place.score("--pred", folder, "--worst", 1, model="DNANet"), place.score()
    assert "taken off the names of the predictions: _Pred\n" in shown
    for heading in ("mIoU", "Pd", "Fa"):
        assert value(shown, heading) == value(ours, heading)
    Image.fromarray(255 * place.masks["a"]).save(folder / "a1_Pred.png")  # of another image, a1
    assert "Tiny_qualitative.png" in place.run(qualitative, "--pred", folder, "--names", "a")
    for name in NAMES:
        Image.fromarray(255 * place.masks[name]).save(folder / f"{name}_pred2.png")
    for path in place.result.glob("Tiny_*"):
        path.unlink()
    assert "NAME_Pred and NAME_pred2" in place.refused("--pred", folder)


def test_pairs_that_are_left_out_are_named_and_their_maps_are_no_strangers(place):
    mask = place.folder / "data" / "Tiny" / "masks" / "b.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(mask)  # of another size than its image
    savemat(place.mat / "z.mat", {"T": place.preds["a"]})
    shown = place.score("--skip_bad")
    (report,) = place.result.glob("Tiny_M_*.txt")
    for text in (shown, report.read_text("utf-8")):
        assert "1 pair left out: b\n" in text
        assert "ignored, not in the test list: z.mat\n" in text


def test_a_name_is_no_suffix_of_another_name(tmp_path):
    for name in ("cloud_dark", "cloud_dark_dark"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 2)))
    with pytest.raises(UserError, match="1 of 1 predictions missing: cloud "):
        find_predictions(["cloud"], tmp_path, ["cloud", "cloud_dark", "cloud_dark_dark"])


def test_eight_bits_and_the_order_of_formats(tmp_path):
    grey, folder = np.arange(256, dtype=np.uint8).reshape(16, 16), tmp_path / "predictions"
    (folder / "in").mkdir(parents=True)
    Image.fromarray(grey).save(folder / "x.png")
    np.save(folder / "in" / "y.npy", grey)
    savemat(folder / "in" / "y.mat", {"T": grey / 255, "other": grey})
    (folder / "x.txt").write_text("no prediction")
    found = find_predictions(["x", "in/y"], folder).files
    assert {name: path.name for name, path in found.items()} == {"x": "x.png", "in/y": "y.mat"}
    for path in (*found.values(), folder / "in" / "y.npy"):
        np.testing.assert_allclose(read_prediction(path), grey / 255, rtol=1e-7)
    os.mkfifo(folder / "z.npy")  # a pipe: reading it would wait for ever
    with pytest.raises(UserError, match="z.npy: no such file"):
        read_prediction(folder / "z.npy")


@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 1), (np.uint16, 1), (np.uint16, 255)])
def test_masks_that_full_scale_would_make_black_are_refused(place, kind, top):
    for name in NAMES:
        (place.mat / f"{name}.mat").unlink()
        Image.fromarray(place.masks[name].astype(kind) * kind(top)).save(place.mat / f"{name}.png")
    assert "save masks with 0 and 255" in place.refused("--model_name", "M")


@pytest.mark.parametrize(("flags", "expected"), [
    ("", {"Default": "out/result/D/mat/Default"}),
    ("--model_name A B", {"A": "out/result/D/mat/A", "B": "out/result/D/mat/B"}),
    ("--pred x/one two", {"one": "x/one", "two": "two"}),
    ("--pred x/one two --model_name A B", {"A": "x/one", "B": "two"}),
    ("--pred two --model_name A", {"A": "two"}),
    ("--pred x --model_name one", {"one": "x/one"}),
    ("--pred x --model_name A B", {"A": "x/A", "B": "x/B"}),
    ("--pred x/one x/two --model_name A", "2 folders but 1 of --model_name"),
    ("--pred one x/one", "several models of this name"),
    ("--pred one --dataset_name D E", "is of one dataset; name it"),
    ("--pred link two", {"link": "link", "two": "two"}),
])
def test_which_folders_are_meant(flags, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / "one").mkdir(parents=True)
    (tmp_path / "link").symlink_to("x/one")
    parser = cli.make_parser("", default_models=["Default"], any_model=True)
    cli.add_pred(parser)
    args = parser.parse_args(["--output_dir", "out", "--dataset_name", "D/", *flags.split()])
    given = (args.output_dir, args.dataset_names, args.model_names, args.default_models, args.pred)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            prediction_folders(*given)
    else:
        found = prediction_folders(*given)["D"]
        assert [(name, str(path)) for name, path in found.items()] == [*expected.items()]


def test_curves_of_an_all_black_and_of_a_perfect_model(tmp_path):
    evaluators = {"black": Evaluator(), "perfect": Evaluator()}
    mask = np.zeros((16, 16))
    mask[4:6, 4:6] = 1
    for (_, evaluator), pred in zip(evaluators.items(), (0 * mask, mask)):
        evaluator.update(pred, mask)
    save_score_curves([tmp_path / "curves.png"], evaluators, "extremes")
    assert Image.open(tmp_path / "curves.png").size[0] > 2000


# Per image


def test_per_image_lines_and_pictures_have_the_worst_first(place):
    place.masks["c"][20, 1:4] = 1  # missed
    Image.fromarray(255 * place.masks["c"]).save(place.folder / "data/Tiny/masks/c.png")
    place.score("--worst", "2")
    rows = read_table(place.result / "Tiny_M_per_image.csv")
    # a is perfect; b has 12 target pixels and 4 false ones; c finds 15 of 18.
    assert [row["name"] for row in rows] == ["b", "c", "a"]
    assert [float(row["IoU"]) for row in rows] == pytest.approx([12 / 16, 15 / 18, 1], abs=1e-6)
    keys = ("targets", "hits", "misses", "false_regions", "false_pixels")
    assert [[int(row[key]) for key in keys] for row in rows] == [
        [1, 1, 0, 1, 4], [2, 1, 1, 0, 0], [1, 1, 0, 0, 0]
    ]

    worst = place.result / "Tiny" / "worst" / "M"
    assert sorted(path.name for path in worst.iterdir()) == ["1_b.png", "2_c.png"]
    place.score("--worst", "1")  # nothing of the former run is left
    assert [path.name for path in worst.iterdir()] == ["1_b.png"]


def test_worst_first_among_equal_IoU():
    evaluator = Evaluator()
    blank, target, two = np.zeros((3, 16, 16))
    target[4, 4] = two[4, 4] = two[12, 12] = 1
    false = 0 * blank
    false[0, 15] = 1
    for pred, mask in ((blank, target), (blank, two), (false, target), (blank, blank)):
        evaluator.update(pred, mask)
    assert worst_first(evaluator.images) == [1, 2, 0, 3]


# The qualitative figure


def test_qualitative_figure_of_chosen_names(place):
    flags = ["--pred", place.mat]
    place.run(qualitative, *flags, "--names", "c.png")
    assert (place.result / "Tiny_qualitative.pdf").read_bytes().startswith(b"%PDF")
    width, height = Image.open(place.result / "Tiny_qualitative.png").size
    place.run(qualitative, *flags)
    four = Image.open(place.result / "Tiny_qualitative.png").size
    assert four[0] == width and four[1] > height


def test_qualitative_refuses_what_it_cannot_draw(place):
    flags = ["--pred", place.mat, "--names"]
    error = place.refused(*flags, "a", "z", script=qualitative)
    assert error == "--names z: not in the test list of Tiny; choose names from that list"
    savemat(place.mat / "b.mat", {"T": np.zeros((4, 4))})
    error = place.refused(*flags, "b", script=qualitative)
    assert error.startswith(f"{place.mat / 'b.mat'}: the prediction is of shape (4, 4)")


def test_qualitative_draws_the_contrast_stages_and_the_kernels(place):
    model = "L2SKNet_1D_UNet"
    printed = place.run(qualitative, "--kernels", "--model_name", model, "--names", "c", "a")
    assert f"pretrained/NUDT-SIRST/{model}.npz" in printed
    for kind, shape in (("stages", 0.9), ("kernels", 1.5)):  # height over width, or more
        path = place.result / f"Tiny_{model}_{kind}.png"
        assert str(path) in printed
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        image = np.asarray(Image.open(path))
        assert image.shape[0] > shape * image.shape[1] > 900
        for color in ("#67001F", "#053061"):  # both ends of the diverging colours
            assert is_of(image, color, 8).sum() > 50


@pytest.mark.parametrize(("flags", "says"), [
    ("--names a z", "--names z: not in the test list of Tiny; choose names from that list"),
    ("--model_name M", "--model_name M: not a network of this project; name one of L2SKNet_UNet, "
     "L2SKNet_FPN, L2SKNet_1D_UNet, L2SKNet_1D_FPN"),
    ("--weights w.npz", "w.npz: weights are of one network; name one --model_name"),
    ("--weights w.npz --model_name L2SKNet_UNet",
     "w.npz: no such file; train the model first, or name a checkpoint"),
])
def test_kernels_of_nothing_are_refused(place, flags, says):
    assert place.refused("--kernels", *flags.split(), script=qualitative) == says


@pytest.mark.parametrize("flags", [
    "--kernels --pred x", "--kernels --threshold 0.4", "--weights w.npz"])
def test_flags_that_do_not_go_together(place, flags, capsys):
    with pytest.raises(SystemExit):
        place.run(qualitative, *flags.split())
    assert "--kernels\n" in capsys.readouterr().err


# run_evaluate.py


def test_run_evaluate_predicts_scores_and_compares(place):
    assert "run_train.py" in place.refused(script=run_evaluate)
    model, folder = "L2SKNet_1D_FPN", place.out / "model" / "checkpoints" / "Tiny"
    path = folder / model / "best.npz"
    history = [{"epoch": epoch, "loss": 0.5, "mIoU": 0.1} for epoch in (1, 2, 3)]
    save_weights(build_model(model), path,
                 {"history": history, "recipe": {"epochs": 5, "lr": 0.125}})
    printed = place.run(run_evaluate)

    evaluator = Evaluator()
    for name in NAMES:
        pred = loadmat(place.mat.parent / model / f"{name}.mat")["T"]
        assert pred.shape == place.masks[name].shape and 0 < pred.min() <= pred.max() < 1
        evaluator.update(pred, place.masks[name])
    rows = read_table(place.result / "Tiny_comparison.csv")
    assert [row["source"] for row in rows] == ["not trained"] * 3 + ["this run"]
    assert (rows[3]["model"], rows[3]["epoch"]) == (model, "3 of 5")
    assert float(rows[3]["fscore"]) == evaluator.compute()["fscore"]
    table = (place.result / "Tiny_comparison.md").read_text()
    assert re.search(r"\| this run +\| 3 of 5 +\|", table) and "not trained" in table
    assert "reference" not in table
    assert table in printed
    assert len(list(place.result.glob(f"Tiny_{model}_*.txt"))) == 1
    assert (place.result / f"Tiny_{model}.mat").is_file()

    page = (place.result / "Tiny_report.html").read_text(encoding="utf-8")
    for text in (f"python run_evaluate.py --dataset_dir {place.folder / 'data'} --output_dir "
                 f"{place.out} --dataset_name Tiny --device cpu", "3 of 5", ">0.125</td>",
                 f">{evaluator.compute()['strict']['hIoU']:.6f}</td>", ">numpy</td>",
                 "not trained", str(path)):
        assert text in page, text
    assert "reference" not in page  # it is of another dataset
    pictures = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img ") == 1 + 1 + 1 + 3  # curves, loss, rows, worst
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    # It stands alone: nothing is loaded, nothing is run.
    assert not re.search(r"<script|<link|url\(|@import|(src|href)=.?(?!.?data:)", page)


def test_run_evaluate_of_weights_without_a_run_and_of_a_damaged_last_checkpoint(place):
    folder = place.out / "model" / "checkpoints" / "Tiny" / "L2SKNet_1D_FPN"
    save_weights(build_model("L2SKNet_1D_FPN"), folder / "best.npz", {"note": "mine"})
    (folder / "last.npz").write_bytes(b"damaged")
    place.run(run_evaluate, "--worst", "0", "--model_name", "L2SKNet_1D_FPN")
    page = (place.result / "Tiny_report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 and "Worst images" not in page  # curves, rows
    assert not (place.result / "Tiny" / "worst").exists()


# The tables


def test_tables_set_our_scores_beside_the_reference(place):
    unet = ModelScores(place.evaluator(), {"history": [{}] * 3, "recipe": {"epochs": 5}})
    text, (_, path) = save_tables(place.out, "NUDT-SIRST",
                                  {"L2SKNet_UNet": unet, "L2SKNet_FPN": None})
    assert "beside the reference" in text and "1D rows are probably of a variant" in text
    headings, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]]
                           for line in text.splitlines() if line.startswith("|")]
    assert headings[:8] == [
        "model", "source", "epoch", "mIoU", "F-score", "Pd", "Fa", "strict nIoU"]
    assert [line[:3] for line in lines] == [
        ["L2SKNet_UNet", "this run", "3 of 5"],
        ["L2SKNet_UNet", "reference PyTorch", "best of 400"],
        ["L2SKNet_UNet", "reference Jittor", "best of 400"],
        ["L2SKNet_FPN", "not trained", "-"],
        ["L2SKNet_FPN", "reference PyTorch", "best of 400"],
        ["L2SKNet_FPN", "reference Jittor", "best of 400"],
    ]
    assert lines[0][3] == f"{unet.scores['mIoU']:.4f}"
    assert lines[1][3:7] == ["0.9274", "0.9620", "0.9884", "2.80e-06"]
    assert set(lines[1][7:]) == set(lines[3][2:]) == {"-"}

    rows = read_table(path)
    assert [rows[0][key] for key in ("model", "source", "epoch")] == lines[0][:3]
    for key in ("mIoU", "nIoU", "pixAcc", "fscore", "precision", "recall", "Pd", "Fa", "hIoU"):
        assert float(rows[0][key]) == unet.scores[key]
    assert float(rows[0]["strict_Fa"]) == unet.scores["strict_Fa"]
    assert rows[3]["source"] == "not trained" and rows[3]["mIoU"] == ""
    fpn = [row for row in REFERENCE if row.model == "L2SKNet_FPN"]
    assert [float(row["Fa"]) for row in rows[4:]] == [row.Fa for row in fpn]


def test_a_table_in_markdown_is_aligned():
    table = markdown_table([["", "Pd"], ["a model", "0.5"], ["b", "-"]])
    assert table.splitlines() == ["|         |  Pd |", "| ------- | --: |", "| a model | 0.5 |",
                                  "| b       |   - |"]
