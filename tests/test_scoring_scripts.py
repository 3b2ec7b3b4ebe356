"""cal_metrics.py, qualitative.py and run_evaluate.py by their flags, on files in a folder."""

from __future__ import annotations

import base64
import contextlib
import csv
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

import cal_metrics
import qualitative
import run_evaluate
from evaluation import Evaluator
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
from utils.report.panels import _coarse
from utils.report.reference import REFERENCE
from utils.report.scores import ModelScores, comparison, save_tables, worst_first
from utils.report.tables import markdown_table

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
        """Runs a script with the dataset Tiny; returns what it prints."""
        words = [*flags, "--dataset_name", "Tiny", "--dataset_dir", self.folder / "data",
                 "--output_dir", self.folder]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            script.main([str(word) for word in words])
        return printed.getvalue()

    def score(self, *flags, model="M"):
        return self.run(cal_metrics, "--model_name", model, *flags)

    def refused(self, *flags, script=cal_metrics):
        """The error of a script that must write nothing."""
        with pytest.raises(UserError) as error:
            self.run(script, *flags)
        assert "\n" not in str(error.value)
        assert not list((self.folder / "result").glob("Tiny_*"))
        return str(error.value)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def value(report, heading):
    """The two figures of a line of a report."""
    return re.search(rf"^\| {heading} +\| +(\S+) \| +(\S+) \|", report, re.MULTILINE).groups()


def test_report_and_roc_are_those_of_the_evaluator(place):
    printed = place.score()
    evaluator = Evaluator()
    for name in NAMES:
        evaluator.update(place.preds[name], place.masks[name])
    scores = evaluator.compute()

    (path,) = (place.folder / "result").glob("Tiny_M_*.txt")
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

    roc = loadmat(place.folder / "result" / "Tiny_M.mat")
    fpr, tpr = evaluator.roc()
    np.testing.assert_array_equal(roc["fpr"], fpr[None])
    np.testing.assert_array_equal(roc["tpr"], tpr[None])


def test_threshold_flag(place):
    printed = place.score("--threshold", "0.949")
    assert "threshold 0.949" in printed
    # Targets are at 0.9, the maximum of two images; in the third the false alarm has 0.95.
    assert value(printed, "Pd") == (f"{2 / 3:.6f}", "0.000000")


def test_official_spellings_and_several_models(place):
    other = place.mat.parent / "N"
    place.mat.rename(other)
    place.mat.mkdir()
    for name in NAMES:
        savemat(place.mat / f"{name}.mat", {"T": np.zeros_like(place.preds[name])})
    printed = place.run(cal_metrics, "--model_names", "M", "N")
    assert printed.index("M on Tiny") < printed.index("N on Tiny")
    assert [len(list((place.folder / "result").glob(f"Tiny_{m}_*.txt"))) for m in "MN"] == [1, 1]


def test_stale_files_are_ignored_with_a_word(place):
    clean = place.score()
    savemat(place.mat / "old.mat", {"T": np.ones((3, 3))})
    printed = place.score()
    assert "ignored, not in the test list: old.mat\n" in printed
    assert "not in the test list" not in clean
    assert value(printed, "mIoU") == value(clean, "mIoU")


def test_missing_predictions_are_named_and_counted(place):
    (place.mat / "b.mat").unlink()
    (place.mat / "c.mat").unlink()
    error = place.refused("--model_name", "M")
    assert "2 of 3 predictions missing: b, c (.mat, .npy, .png);" in error and "test.py" in error


def test_model_without_predictions(place):
    error = place.refused("--model_name", "Other")
    assert "no predictions of Other" in error and "there are some of M" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"T": np.zeros((24, 40), np.float32)}, "prediction is 24x40 but its mask is 24x41"),
        ({"T": np.zeros((2, 24, 41), np.float32)}, "height x width, not of shape (2, 24, 41)"),
        ({"P": np.zeros((24, 41)), "Q": np.zeros(3)}, "holds no array T but P, Q"),
        ({}, "holds no array T but nothing"),
        ({"T": np.full((24, 41), 255.0)}, "values from 255.0 to 255.0"),
        ({"T": np.full((24, 41), np.nan)}, "NaN"),
        ({"T": "text"}, "holds a char, not real numbers"),
        ({"T": {"a": np.zeros(3)}}, "holds a struct, not real numbers"),
        ({"T": np.full((24, 41), np.inf)}, "NaN or infinite"),
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
    error = place.refused("--model_name", "M")
    assert str(path) in error and message in error


def mat_file(dims, cells=0, kind=6, packed=False, numbers=9):
    """A MATLAB 5 file of an array `T`, or of as many cells in cells, that holds nothing."""
    def matrix(kind, dims, name, content):
        body = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *dims)
        body += struct.pack("<II", 1, len(name)) + name.ljust(8 * bool(name), b"\0")
        return struct.pack("<II", 14, len(body) + content) + body

    content = b"" if cells else struct.pack("<II", numbers, 8 * dims[0] * dims[1] % 2**31)
    parts, size = [content], len(content)
    for depth in range(cells + 1):
        last = depth == cells
        parts.append(matrix(1 if cells else kind, dims, b"T" if last else b"", size))
        size += len(parts[-1])
    data = b"".join(reversed(parts))
    if packed:
        data = zlib.compress(data + bytes(10**7))
        assert len(data) < 20_000
        data = struct.pack("<II", 15, len(data)) + data
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + data


@pytest.mark.parametrize(("content", "message"), [
    (mat_file((1, 1), cells=200_000), "holds a cell, not real numbers"),  # SciPy's stack overflows
    (mat_file((2**15, 2**15), packed=True), "32768x32768 is no probability map"),
    (mat_file((-1, 5)), "-1x5 is no probability map"),
    (mat_file((4000, 4000)), "not a .mat file that can be read"),
    (mat_file((1, 0), numbers=0), "1x0 is no probability map"),
    (mat_file((1, 1), numbers=0), "numbers of the unknown type 0"),  # SciPy follows a null pointer
    (mat_file((1, 1), kind=5), "holds a sparse, not real numbers"),
], ids="cells bomb negative short empty type sparse".split())
def test_a_mat_file_that_lies_is_refused_by_its_header(tmp_path, content, message):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    code = ("import sys; from utils import cli; from utils.predict import prediction_files as p\n"
            "cli.run(lambda: p.read_prediction(sys.argv[1]))")
    result = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)
    assert result.returncode == 2, result
    assert result.stderr.startswith(f"error: {path}: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["4", "5"])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path, packed, form):
    rng = np.random.default_rng(0)
    for kind in ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"):
        if form == "4" and (packed or kind in ("u4", "i8", "u8", "?", "i1")):
            continue
        array = rng.integers(0, 2, (5, 3)).astype(kind)
        savemat(tmp_path / "a.mat", {"other": rng.random((300, 7)), "T": array, "name": "text"},
                do_compression=packed, format=form)
        read = read_prediction(tmp_path / "a.mat")
        full = {"u1": 255, "u2": 65535}.get(kind, 1)
        np.testing.assert_array_equal(read, array.astype("f4") / np.float32(full))
        assert read.dtype == (np.float32 if full > 1 else array.dtype)


def narrow_file(array, flags, number, packed=False):
    """A MATLAB 5 file of `T`, of the class in `flags`, its numbers in the type of `array`."""
    parts = [(6, struct.pack("<II", flags, 0)), (5, struct.pack("<ii", *array.shape)), (1, b"T"),
             (number, array.tobytes("F"))]
    body = b"".join(struct.pack("<II", code, len(data)) + data + bytes(-len(data) % 8)
                    for code, data in parts)
    data = struct.pack("<II", 14, len(body)) + body
    if packed:
        data = zlib.compress(data)
        data = struct.pack("<II", 15, len(data)) + data
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + data


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind, flags, stored, number", [
    ("f8", 6, "u1", 2), ("f8", 6, "i2", 3), ("f8", 6, "f8", 9), ("f4", 7, "u1", 2),
    ("u1", 9, "u1", 2), ("u2", 11, "u1", 2), ("u2", 11, "u2", 4), ("i4", 12, "u1", 2),
    ("?", 0x209, "u1", 2), ("?", 0x206, "u1", 2),
])
def test_small_integers_that_matlab_stores_in_fewer_bytes(
    tmp_path, packed, kind, flags, stored, number
):
    array = np.array([[0, 1, 0], [1, 1, 0]])
    path = tmp_path / "a.mat"
    path.write_bytes(narrow_file(array.astype(stored), flags, number, packed))
    assert loadmat(path, mat_dtype=True)["T"].dtype == kind
    read = read_prediction(path)
    full = {"u1": 255, "u2": 65535}.get(kind, 1)
    np.testing.assert_array_equal(read, array.astype("f4") / np.float32(full))
    assert read.dtype == (np.float32 if full > 1 else kind)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(UserError, match="a.npy: no such file"):
        read_prediction(tmp_path / "a.npy")


def test_several_unusable_predictions_are_counted(place):
    for name in NAMES:
        savemat(place.mat / f"{name}.mat", {"T": np.zeros((2, 2))})
    error = place.refused("--model_name", "M")
    assert "a.mat" in error and "and 2 more files" in error


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


def test_pred_takes_mat_png_and_npy_of_any_folder(place):
    scores = other_formats(place, place.folder / "theirs")
    printed = place.run(cal_metrics, "--pred", "theirs")
    assert "theirs on Tiny" in printed
    assert "1 .mat and 1 .png and 1 .npy in theirs" in printed
    for key, heading in (("fscore", "F-score"), ("AUC", "AUC"), ("hIoU", "hIoU")):
        assert value(printed, heading) == (f"{scores[key]:.6f}", f"{scores['strict'][key]:.6f}")
    assert (place.folder / "result" / "Tiny_theirs.mat").is_file()


def test_a_suffix_of_all_predictions_is_taken_off_and_said(place):
    folder = place.folder / "DNANet"  # as it writes them: prediction, truth, and the image
    folder.mkdir()
    for name in NAMES:
        detected = np.uint8(255 * (place.preds[name] > 0.5))
        Image.fromarray(detected).save(folder / f"{name}_Pred.png")
        Image.fromarray(255 * place.masks[name]).save(folder / f"{name}_GT.png")
        Image.fromarray(255 - detected).save(folder / f"{name}.png")
    shown = place.score("--pred", folder, "--worst", 1, model="DNANet")
    assert "taken off the names of the predictions: _Pred\n" in shown
    for heading in ("mIoU", "Pd", "Fa"):
        assert value(shown, heading) == value(place.score(), heading)
    for name in NAMES:
        Image.fromarray(255 * place.masks[name]).save(folder / f"{name}_pred2.png")
    for path in (place.folder / "result").glob("Tiny_*"):
        path.unlink()
    assert "NAME_Pred or NAME_pred2" in place.refused("--pred", folder)


def test_eight_bits_and_the_order_of_formats(place, tmp_path):
    grey, folder = np.arange(256, dtype=np.uint8).reshape(16, 16), tmp_path / "predictions"
    (folder / "in").mkdir(parents=True)
    Image.fromarray(grey).save(folder / "x.png")
    np.save(folder / "in" / "y.npy", grey)
    savemat(folder / "in" / "y.mat", {"T": grey / 255, "other": grey})
    (folder / "x.txt").write_text("no prediction")
    found = find_predictions(folder)
    assert {name: path.name for name, path in found.items()} == {"x": "x.png", "in/y": "y.mat"}
    for path in (*found.values(), folder / "in" / "y.npy"):
        np.testing.assert_allclose(read_prediction(path), grey / 255, rtol=1e-7)


def test_masks_of_0_and_1_in_8_bits_are_refused(place):
    # Divided by 255 they would all be black, without a word.
    for name in NAMES:
        (place.mat / f"{name}.mat").unlink()
        Image.fromarray(place.masks[name]).save(place.mat / f"{name}.png")
    assert "save masks with 0 and 255" in place.refused("--model_name", "M")


# The last one claims 4 TB.
@pytest.mark.parametrize("content", [
    b"", b"no array", np.array([{"an": "object"}]),
    b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, "
    b"'shape': (1000000, 1000000)}\n"])
def test_unusable_npy_is_named(place, content):
    (place.mat / "b.mat").unlink()
    path = place.mat / "b.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    error = place.refused("--model_name", "M")
    assert str(path) in error and "not a .npy file that can be read" in error


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"Default": "out/result/D/mat/Default"}),
        ("--model_name A B", {"A": "out/result/D/mat/A", "B": "out/result/D/mat/B"}),
        ("--pred x/one two", {"one": "x/one", "two": "two"}),
        ("--pred x/one two --model_name A B", {"A": "x/one", "B": "two"}),
        ("--pred two --model_name A", {"A": "two"}),
        ("--pred x --model_name one", {"one": "x/one"}),
        ("--pred x --model_name A B", {"A": "x/A", "B": "x/B"}),
        ("--pred x/one x/two --model_name A", "2 folders but 1 of --model_name"),
        ("--pred one x/one", "several models of this name"),
        ("--pred one --dataset_name D E", "of which dataset"),
    ],
)
def test_which_folders_are_meant(flags, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / "one").mkdir(parents=True)
    parser = cli.make_parser("", default_models=["Default"], any_model=True)
    cli.add_pred(parser)
    args = parser.parse_args(["--output_dir", "out", "--dataset_name", "D", *flags.split()])
    given = (args.output_dir, args.dataset_names, args.model_names, args.default_models, args.pred)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            prediction_folders(*given)
    else:
        found = prediction_folders(*given)["D"]
        assert {name: str(path) for name, path in found.items()} == expected
        assert list(found) == list(expected)


def test_predictions_of_several_datasets(tmp_path):
    found = prediction_folders(tmp_path, ["D", "E"], ["A"], ["Default"])
    assert found == {name: {"A": tmp_path / "result" / name / "mat" / "A"} for name in ("D", "E")}


def test_several_models_in_one_table_and_one_figure(place):
    scores = other_formats(place, place.folder / "theirs")
    place.run(cal_metrics, "--pred", place.mat, "theirs", "--model_name", "Ours", "Theirs")
    saved = place.folder / "result"
    rows = list(csv.DictReader((saved / "Tiny_models.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["Ours", "Theirs"]
    assert float(rows[1]["strict_hIoU"]) == scores["strict"]["hIoU"]
    counts = {"threshold": "0.5", "images": "3", "images_without_target": "0", "targets": "3"}
    assert counts.items() <= rows[0].items() and rows[0]["pixels"] == str(24 * (40 + 41 + 42))
    table = (saved / "Tiny_models.md").read_text()
    assert "| Theirs | " in table and "3 targets, " in table and "reference" not in table
    assert Image.open(saved / "Tiny_curves.png").size[0] > 2000
    assert (saved / "Tiny_curves.pdf").read_bytes().startswith(b"%PDF")


def test_curves_of_an_all_black_and_of_a_perfect_model(tmp_path):
    evaluators = {"black": Evaluator(), "perfect": Evaluator()}
    mask = np.zeros((16, 16))
    mask[4:6, 4:6] = 1
    for (_, evaluator), pred in zip(evaluators.items(), (0 * mask, mask)):
        evaluator.update(pred, mask)
    save_score_curves([tmp_path / "curves.png"], evaluators, "extremes")
    assert Image.open(tmp_path / "curves.png").size[0] > 2000


# Per image


def test_per_image_lines_have_the_worst_first(place):
    place.masks["c"][20, 1:4] = 1  # missed
    Image.fromarray(255 * place.masks["c"]).save(place.folder / "data/Tiny/masks/c.png")
    place.score("--worst", "2")
    text = (place.folder / "result" / "Tiny_M_per_image.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    # a is perfect; b has 12 target pixels and 4 false ones; c finds 15 of 18.
    assert [row["name"] for row in rows] == ["b", "c", "a"]
    assert [float(row["IoU"]) for row in rows] == pytest.approx([12 / 16, 15 / 18, 1], abs=1e-6)
    keys = ("targets", "hits", "misses", "false_regions", "false_pixels")
    assert [[int(row[key]) for key in keys] for row in rows] == [
        [1, 1, 0, 1, 4], [2, 1, 1, 0, 0], [1, 1, 0, 0, 0]
    ]

    worst = place.folder / "result" / "Tiny" / "worst" / "M"
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
    other = place.folder / "N"
    other_formats(place, other)
    flags = ["--pred", place.mat, other]
    place.run(qualitative, *flags, "--names", "c", "a", "--surface")
    sizes = {}
    for name in ("Tiny_qualitative", "Tiny_qualitative_3d"):
        sizes[name] = Image.open(place.folder / "result" / f"{name}.png").size
        assert (place.folder / "result" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    place.run(qualitative, *flags)
    width, height = Image.open(place.folder / "result" / "Tiny_qualitative.png").size
    assert width == sizes["Tiny_qualitative"][0] and height > sizes["Tiny_qualitative"][1]


def test_qualitative_refuses_what_it_cannot_draw(place):
    flags = ["--pred", place.mat, "--names"]
    error = place.refused(*flags, "a", "z", script=qualitative)
    assert error == "--names z: not in the test list of Tiny"
    savemat(place.mat / "b.mat", {"T": np.zeros((4, 4))})
    error = place.refused(*flags, "b", script=qualitative)
    assert error.startswith(f"{place.mat / 'b.mat'}: the prediction is of shape (4, 4)")


def test_surface_keeps_a_target_of_one_pixel(tmp_path):
    mask = np.zeros((200, 300))
    mask[101, 203] = 1
    x, y, z = _coarse(mask)
    assert z.shape == (40, 60) and z.sum() == 1
    row, column = np.argwhere(z == 1)[0]
    assert (y[row, column], x[row, column]) == (100, 200)


# run_evaluate.py


def test_run_evaluate_without_a_trained_model(place):
    assert "run_train.py" in place.refused("--device", "cpu", script=run_evaluate)


def test_run_evaluate_predicts_scores_and_compares(place):
    model, folder = "L2SKNet_1D_FPN", place.folder / "model" / "checkpoints" / "Tiny"
    path = folder / model / "best.npz"
    history = [{"epoch": epoch, "loss": 0.5, "mIoU": 0.1} for epoch in (1, 2, 3)]
    save_weights(build_model(model), path,
                 {"history": history, "recipe": {"epochs": 5, "lr": 0.125}})
    printed = place.run(run_evaluate, "--device", "cpu")

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
    table = (saved / "Tiny_comparison.md").read_text()
    assert re.search(r"\| this run +\| 3 of 5 +\|", table) and "not trained" in table
    assert table in printed
    assert len(list(saved.glob(f"Tiny_{model}_*.txt"))) == 1
    assert (saved / f"Tiny_{model}.mat").is_file()

    page = (saved / "Tiny_report.html").read_text(encoding="utf-8")
    for text in ("python run_evaluate.py --device cpu --dataset_name Tiny", "3 of 5", ">0.125</td>",
                 f">{evaluator.compute()['strict']['hIoU']:.6f}</td>", ">numpy</td>",
                 "not trained", str(path)):
        assert text in page, text
    pictures = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img ") == 1 + 1 + 1 + 3  # curves, loss, rows, worst
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    # It stands alone: nothing is loaded, nothing is run.
    assert not re.search(r"<script|<link|url\(|@import|(src|href)=.?(?!.?data:)", page)


# The tables


@pytest.fixture
def models(place):
    evaluator = Evaluator()
    for name in NAMES:
        evaluator.update(place.preds[name], place.masks[name])
    meta = {"history": [{}] * 3, "recipe": {"epochs": 5}}
    return {"L2SKNet_UNet": ModelScores(evaluator, meta), "L2SKNet_FPN": None}


def test_comparison_sets_our_scores_beside_the_reference(models):
    (headings, *rows), *_ = comparison("Tiny", models)[0]
    assert headings[:7] == ["model", "source", "epoch", "mIoU", "F-score", "Pd", "Fa"]
    assert [row[:3] for row in rows] == [
        ["L2SKNet_UNet", "this run", "3 of 5"],
        ["L2SKNet_UNet", "reference PyTorch", "best of 400"],
        ["L2SKNet_UNet", "reference Jittor", "best of 400"],
        ["L2SKNet_FPN", "not trained", "-"],
        ["L2SKNet_FPN", "reference PyTorch", "best of 400"],
        ["L2SKNet_FPN", "reference Jittor", "best of 400"],
    ]
    assert rows[0][3] == f"{models['L2SKNet_UNet'].scores['mIoU']:.4f}"
    assert rows[1][3:7] == ["0.9274", "0.9620", "0.9884", "2.80e-06"]
    assert set(rows[1][7:]) == set(rows[3][2:]) == {"-"}


def test_a_table_in_markdown_is_aligned():
    table = markdown_table([["", "Pd"], ["a model", "0.5"], ["b", "-"]])
    assert table.splitlines() == ["|         |  Pd |", "| ------- | --: |", "| a model | 0.5 |",
                                  "| b       |   - |"]


def test_csv_holds_every_score_at_full_precision(place, models):
    _, _, path = save_tables(place.folder, "Tiny", models)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    ours, scores = rows[0], models["L2SKNet_UNet"].scores
    assert (ours["model"], ours["source"], ours["epoch"]) == ("L2SKNet_UNet", "this run", "3 of 5")
    for key in ("mIoU", "nIoU", "pixAcc", "fscore", "precision", "recall", "Pd", "Fa", "hIoU"):
        assert float(ours[key]) == scores[key]
    assert float(ours["strict_Fa"]) == scores["strict"]["Fa"]
    assert rows[3]["source"] == "not trained" and rows[3]["mIoU"] == ""
    fpn = [row for row in REFERENCE if row.model == "L2SKNet_FPN"]
    assert [float(row["Fa"]) for row in rows[4:]] == [row.Fa for row in fpn]
