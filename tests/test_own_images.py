"""test.py --input: any image or folder, the lists of detections, the overlays."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from brightness import GAIN, LEVEL, brightness_net
from PIL import Image
from scipy.io import loadmat
from scripts import ROOT, assert_written, complaint, is_of, load, read_table

from utils.checkpoint import pretrained
from utils.data.decoding import pages, read_size
from utils.data.images import read_gray, stretch
from utils.data.sources import ImageSource
from utils.errors import UserError
from utils.predict import frames, memory
from utils.predict.detections import Detection, find_detections
from utils.predict.maps import predict, predict_tiles
from utils.predict.overlays import DETECTION, INSET, draw_overlay
from utils.predict.prediction_files import save_prediction

pytestmark = pytest.mark.usefixtures("cpu")

UNET = "L2SKNet_UNet"


def scene(height=20, width=30, dtype=np.uint8, full=255):
    """Two targets on a background of a fifth; what is found in it."""
    image = np.full((height, width), full // 5, dtype)
    image[4:6, 10:13] = full * 4 // 5
    image[12, 3] = image[13, 4] = full
    peaks = [round(float(1 / (1 + np.exp(-GAIN * (x - LEVEL)))), 6) for x in (1, 0.8)]
    return image, [
        Detection(3.5, 12.5, 3, 12, 4, 13, 2, peaks[0]),
        Detection(11.0, 4.5, 10, 4, 12, 5, 6, peaks[1]),
    ]


# Detections


def test_detections_by_hand():
    probability = np.zeros((6, 8), np.float32)
    probability[0, 0] = 0.6
    probability[2:4, 3:6] = 0.7
    probability[4, 6] = 0.75  # touches by a corner: the same region
    probability[5, 1:3] = 0.5  # not above the threshold
    assert find_detections(probability) == [
        Detection(round((2 * (3 + 4 + 5) + 6) / 7, 3), round((3 * 2 + 3 * 3 + 4) / 7, 3),
                  3, 2, 6, 4, 7, 0.75),
        Detection(0.0, 0.0, 0, 0, 0, 0, 1, round(float(np.float32(0.6)), 6)),
    ]
    assert [found.area for found in find_detections(probability, 0.4)] == [7, 1, 2]
    assert find_detections(probability, 0.75) == []
    probability[0, 0] = probability[4, 6]  # of equal peaks the larger comes first
    assert [found.area for found in find_detections(probability)] == [7, 1]


# Grey levels


def test_stretch_spreads_the_grey_levels_in_use():
    image = np.tile(np.arange(6000, 6200, dtype=np.uint16), (200, 1))
    spread = stretch(image)
    assert spread.dtype == np.float32 and (spread.min(), spread.max()) == (0, 1)
    np.testing.assert_allclose(spread[0], np.arange(200) / 199, atol=1e-6)
    image[0, 0], image[9, 9] = 65535, 0  # a hot and a dead pixel
    again = stretch(image)
    np.testing.assert_allclose(again[50], spread[50], atol=1e-6)
    assert (again[0, 0], again[9, 9]) == (1, 0)
    assert (stretch(np.full((3, 4), 77, np.uint8)) == 0).all()


# Overlays


def test_small_images_are_enlarged_and_deep_ones_are_not_black():
    for shape, size in (((256, 256), (512, 512)), ((40, 64), (512, 320)), ((1, 1), (8, 8)),
                        ((512, 640), (640, 512))):
        overlay = draw_overlay(np.zeros(shape, np.uint8), [])
        assert overlay.size == size
        assert not is_of(overlay, DETECTION).any() and not is_of(overlay, INSET).any()
    image = np.random.default_rng(0).integers(6000, 6500, (64, 64), dtype=np.uint16)
    levels = np.asarray(draw_overlay(image, []))
    assert levels.min() == 0 and levels.max() == 255 and 100 < levels.mean() < 155


def test_a_ring_surrounds_each_detection_and_leaves_it_visible():
    image = np.zeros((256, 256), np.uint8)
    image[100:104, 60:64] = image[200:203, 150:153] = 255
    overlay = np.asarray(draw_overlay(image, find_detections(image / 255)))
    for y, x in ((102, 62), (201.5, 151.5)):  # edges between pixels, times two in the overlay
        around = overlay[int(2 * y) - 24 : int(2 * y) + 24, int(2 * x) - 24 : int(2 * x) + 24]
        rows, columns = np.nonzero(is_of(around, DETECTION))
        assert len(rows) > 20
        radii = np.hypot(rows + 0.5 - 24, columns + 0.5 - 24)
        assert 6 < radii.min() and radii.max() - radii.min() < 3  # one circle about the middle
        assert (around[22:26, 22:26] == 255).all()


def test_the_inset_enlarges_the_strongest_in_a_corner_without_detections():
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (256, 256), dtype=np.uint8)
    image[40:43, 30:33] = 255
    image[225:228, 225:228] = 250
    found = find_detections(image / 255)
    assert found[0].x == 31
    overlay = np.asarray(draw_overlay(image, found))
    rows, columns = np.nonzero(is_of(overlay, INSET))
    # Farthest from (31, 41) is the lower right, taken by a detection; then the upper right.
    assert rows.min() == 0 and columns.max() == 511
    inset = overlay[: rows[columns == 511].max() + 1, columns[rows == 0].min() :]
    assert inset.shape[0] == inset.shape[1] > 0.3 * 512
    zoom = inset.shape[0] / 24
    assert (inset == 255).all(axis=2).sum() == pytest.approx(9 * zoom**2, rel=0.01)
    # All corners are taken: no inset.
    image[:] = 0
    for y, x in ((20, 20), (20, 230), (230, 20), (230, 230)):
        image[y : y + 3, x : x + 3] = 255
    assert not is_of(draw_overlay(image, find_detections(image / 255)), INSET).any()


# Memory


def test_memory_for_the_largest_image_is_stated_or_refused(tmp_path, monkeypatch):
    files = [tmp_path / "small.png", tmp_path / "large.png", tmp_path / "broken.png"]
    Image.new("L", (64, 32)).save(files[0])
    Image.new("L", (3840, 2160)).save(files[1])
    files[2].write_text("no image")
    models = [UNET, "L2SKNet_1D_UNet"]
    monkeypatch.setattr(memory, "free_bytes", lambda: 16e9)
    sizes = [(str(file), read_size(file)) for file in files]
    line = memory.check_memory(sizes, models, None)
    assert re.fullmatch(r"largest 3840x2160 needs about \d\.\d GB of memory with "
                        r"L2SKNet_1D_UNet, 16\.0 GB are free", line)
    monkeypatch.setattr(memory, "free_bytes", lambda: 4e9)
    text = complaint(memory.check_memory, sizes, models, None)
    assert text.startswith(f"{files[1]}: 3840x2160 needs about ")
    assert "4.0 GB are free; close other programs, or predict tiles (--tile)" in text
    assert memory.check_memory(sizes, models, 1024).startswith("largest 1024x1024 needs")
    assert memory.check_memory(sizes[2:], models, None) == "no image that can be read"


def test_free_memory_of_this_machine():
    total = next(int(line.split()[1]) * 1024 for line in open("/proc/meminfo")
                 if line.startswith("MemTotal"))
    assert 10e6 < memory.free_bytes() <= total


# Tiles


@pytest.mark.parametrize("shape", [(40, 56), (16, 100), (9, 9)])
def test_tiles_equal_the_whole_where_theta_is_fixed(shape):
    image = np.random.default_rng(1).random(shape, np.float32)
    net = brightness_net()
    whole = predict(net, image[None, None])[0]
    np.testing.assert_allclose(whole, 1 / (1 + np.exp(-GAIN * (image - LEVEL))), atol=1e-4)
    np.testing.assert_allclose(predict_tiles(net, image, 16), whole, atol=1e-6)


# The script


ODD = os.fsdecode(b"\xc4\xe3")  # no UTF-8: as from an archive of another system


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory, weights):
    """The real command line on a folder of all kinds of files; where the results are."""
    place = tmp_path_factory.mktemp("frames")
    folder, result = place / "frames", place / os.fsdecode(b"found\xff")
    folder.mkdir()
    image, _ = scene()
    gray = Image.fromarray(image)
    for name in ("gray.png", "gray.bmp", f"{ODD}.png"):
        gray.save(folder / name)
    gray.convert("P").save(folder / "P.png")
    Image.fromarray(image * np.uint16(257)).save(folder / "deep.tif")
    Image.fromarray(np.rot90(image).copy()).save(folder / "turned.png")
    Image.new("L", (7, 5)).save(folder / "dark.png")
    (folder / "broken.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "turned.png").read_bytes()[:60])
    (folder / "notes.txt").touch()
    run = subprocess.run(
        [sys.executable, ROOT / "test.py", "--input", folder, "--output", result, "--weights",
         weights, "--device", "cpu", "--boxes", "coco"], capture_output=True, text=True, cwd=place)
    assert run.returncode == 2, run.stderr
    error = run.stderr[run.stderr.index("error: ") :].splitlines()
    assert error[0] == "error: 2 of 9 images could not be used:"
    assert [line.split(":")[0].strip() for line in error[1:]] == [
        str(folder / "broken.png"), str(folder / "cut.png")]
    assert "7 images in " in run.stdout and "12 detections in 6 of them" in run.stdout
    assert "largest 30x20" in run.stdout and "Traceback" not in run.stderr
    assert not list(folder.glob("*.csv")) and len(list(place.iterdir())) == 2
    return result


def test_each_image_has_its_maps_and_overlay(folder_run):
    assert_written(folder_run, UNET,
                   ["P", "dark", "deep", "gray_bmp", "gray_png", "turned", ODD])
    for name in ("P", "deep", "gray_bmp", "gray_png"):
        probability = loadmat(folder_run / "mat" / UNET / f"{name}.mat")["T"]
        assert probability.dtype == np.float32 and (probability > 0.5).sum() == 8
        picture = np.asarray(Image.open(folder_run / "img" / UNET / f"{name}.png"))
        np.testing.assert_array_equal(picture, np.round(probability * 255))


def test_lists_of_detections_agree(folder_run):
    rows = read_table(folder_run / "detections" / f"{UNET}.csv")
    found = {}
    for row in rows:
        found.setdefault(row["file"], []).append([float(row[key]) for key in Detection._fields])
    turned, odd = found.pop("turned.png"), found.pop("\\udcc4\\udce3.png")
    assert sorted(found) == ["P.png", "deep.tif", "gray.bmp", "gray.png"]
    for detections in (*found.values(), odd):
        np.testing.assert_allclose(detections, scene()[1], rtol=0, atol=2e-4)
    # Turned to the left, (x, y) goes to (y, 29 − x).
    assert [each[:2] for each in turned] == [[12.5, 25.5], [4.5, 18]]

    content = json.loads((folder_run / "detections" / f"{UNET}.json").read_text())
    assert (content["model"], content["threshold"]) == (UNET, 0.5)
    assert "centre of the top left pixel is (0, 0)" in content["coordinates"]
    images = {entry["file"]: entry for entry in content["images"]}
    assert images["dark.png"] == {"file": "dark.png", "width": 7, "height": 5, "detections": []}
    assert images["turned.png"]["width"] == 20
    assert [list(each.values()) for each in images[f"{ODD}.png"]["detections"]] == odd
    assert [entry["file"] for entry in content["unreadable"]] == ["broken.png", "cut.png"]

    coco = json.loads((folder_run / "detections" / f"{UNET}.coco.json").read_text("utf-8"))
    assert list(coco) == ["info", "images", "annotations", "categories"]
    assert coco["categories"] == [{"id": 1, "name": "target"}]
    names = [each["file_name"] for each in coco["images"]]
    assert names == [*images] and [each["id"] for each in coco["images"]] == [*range(1, 8)]
    assert coco["images"][names.index("dark.png")] == {
        "id": names.index("dark.png") + 1, "file_name": "dark.png", "width": 7, "height": 5}
    boxes = []
    for number, each in enumerate(coco["annotations"], 1):
        assert (each["id"], each["category_id"], each["iscrowd"]) == (number, 1, 0)
        x, y, width, height = each["bbox"]
        boxes.append([*each["centroid"], x, y, x + width - 1, y + height - 1, each["area"],
                      each["score"]])
    assert boxes == [[float(row[key]) for key in Detection._fields] for row in rows]
    first = next(each for each in coco["annotations"] if each["area"] == 6)
    assert first["bbox"] == [10, 4, 3, 2]


def test_one_image_goes_to_result(tmp_path, predicts, capsys):
    image, expected = scene()
    Image.fromarray(image).save(tmp_path / "one.png")
    predicts("--input", tmp_path / "one.png", "--output_dir", tmp_path, "--no_overlay",
           "--threshold", 0.9999999)
    result = tmp_path / "result" / "one"
    assert sorted(path.name for path in result.iterdir()) == ["detections", "img", "mat"]
    (row,) = read_table(result / "detections" / f"{UNET}.csv")  # the other is at 0.999994
    assert (row["file"], row["area"]) == ("one.png", str(expected[0].area))
    assert "1 image in " in capsys.readouterr().out


def test_dim_sixteen_bits_need_stretch_and_are_told_so(tmp_path, predicts, capsys):
    image, expected = scene(dtype=np.uint16, full=4095)
    Image.fromarray(image).save(tmp_path / "raw.png")
    table = tmp_path / "out" / "detections" / f"{UNET}.csv"
    predicts("--input", tmp_path / "raw.png", "--output", tmp_path / "out")
    assert read_table(table) == []
    assert "14 bits or less" in capsys.readouterr().out
    predicts("--input", tmp_path / "raw.png", "--output", tmp_path / "out", "--stretch")
    assert [float(row["x"]) for row in read_table(table)] == [found.x for found in expected]
    assert "14 bits" not in capsys.readouterr().out


@pytest.mark.parametrize("kind, scale, offset", [(np.float32, 0.08, 15), (np.int32, 900, -10**6)])
def test_temperatures_of_any_range_are_stretched(tmp_path, predicts, kind, scale, offset):
    image, expected = scene()
    Image.fromarray(image).save(tmp_path / "ref.png")
    tifffile.imwrite(tmp_path / "raw.tif", (image * float(scale) + offset).astype(kind))
    with pytest.raises(UserError, match="(integers|floating point) from .* with --stretch$"):
        predicts("--input", tmp_path / "raw.tif", "--output", tmp_path / "out")
    maps = []
    for name in ("ref.png", "raw.tif"):
        predicts("--input", tmp_path / name, "--output", tmp_path / "out", "--stretch")
        maps.append(loadmat(tmp_path / "out" / "mat" / UNET / f"{name[:3]}.mat")["T"])
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-5)
    table = read_table(tmp_path / "out" / "detections" / f"{UNET}.csv")
    assert [float(row["x"]) for row in table] == [found.x for found in expected]


def test_tiles_by_flag(tmp_path, predicts):
    image = np.zeros((70, 150), np.uint8)
    image[65, 145] = image[3:5, 70] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    predicts("--input", tmp_path / "a.png", "--output", tmp_path / "out", "--tile", 64)
    rows = read_table(tmp_path / "out" / "detections" / f"{UNET}.csv")
    assert [(row["x"], row["y"]) for row in rows] == [("70.0", "3.5"), ("145.0", "65.0")]


def test_a_threshold_for_a_wanted_fa_comes_from_the_card(tmp_path, predicts, weights, capsys):
    image, expected = scene()
    Image.fromarray(image).save(tmp_path / "one.png")
    flags = ["--input", tmp_path / "one.png", "--output", tmp_path / "out", "--no_overlay", "--fa"]
    with pytest.raises(UserError, match="no threshold for --fa 1e-06: no table of thresholds in "
                       ".*brightness.md; give --threshold, or measure one"):
        predicts(*flags, "1e-6")
    card = weights.with_suffix(".md")
    card.write_text("# A card\n\n| wanted Fa | threshold | Fa |\n| --: | --: | --: |\n"
                    "|     1e-05 |       0.5 | 2e-07 |\n|     1e-06 | 0.9999999 | 0 |\n"
                    "|     1e-07 |      none | - |\n\n| 1e-08 | 0.1 | of another table |\n")
    try:
        for rate, count in (("0.00001", 2), ("1e-6", 1)):  # the other is at 0.999994
            predicts(*flags, rate)
            assert len(read_table(tmp_path / "out" / "detections" / f"{UNET}.csv")) == count
        assert f"threshold 0.9999999, for a Fa of 1e-06 by {card}\n" in capsys.readouterr().out
        for rate, reason in (("1e-07", "on the test list none has so low a rate; "),
                             ("1e-08", "")):
            with pytest.raises(UserError, match=f"--fa {rate}: {reason}its card has thresholds for "
                               "1e-05, 1e-06; give --threshold"):
                predicts(*flags, rate)
        with pytest.raises(SystemExit):
            predicts(*flags, "1e-6", "--threshold", "0.5")
        assert "--threshold: not allowed with argument --fa" in capsys.readouterr().err
    finally:
        card.unlink()


def test_flags_that_do_nothing_are_refused(predicts, capsys):
    for flags in (["--output", "x"], ["--boxes", "coco"], ["--threshold", "0.4"], ["--stretch"],
                  ["--overlay_video"], ["--tile", "128"], ["--fa", "1e-6"]):
        with pytest.raises(SystemExit) as stop:
            predicts(*flags)
        assert stop.value.code == 2 and f"{flags[0]} goes with --input" in capsys.readouterr().err
    for flags in (["--skip_bad"], ["--batch_size", "3"], ["--dataset_name", "A", "B"]):
        with pytest.raises(SystemExit):
            predicts("--input", "x", *flags)
        assert flags[0] in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        predicts("--dataset_name", "data/A")
    assert "data/A: must be a plain folder name" in capsys.readouterr().err


def test_predictions_of_a_test_list_are_not_replaced(tmp_path, predicts):
    Image.fromarray(scene()[0]).save(tmp_path / "a.png")
    maps = tmp_path / "out" / "mat" / UNET
    maps.mkdir(parents=True)
    with pytest.raises(UserError, match="out: holds maps of L2SKNet_UNet without detections and"):
        predicts("--input", tmp_path / "a.png", "--output", tmp_path / "out")
    assert not list(maps.iterdir())
    (tmp_path / "out" / "overlay" / UNET).mkdir(parents=True)  # as a run that was killed leaves it
    predicts("--input", tmp_path / "a.png", "--output", tmp_path / "out")
    assert len(list(maps.iterdir())) == 1


def test_results_of_another_input_are_not_mixed_with(tmp_path, predicts):
    for camera in ("left", "right"):
        (tmp_path / camera / "frames").mkdir(parents=True)
        Image.fromarray(scene()[0]).save(tmp_path / camera / "frames" / f"{camera}.png")
    left = tmp_path / "left" / "frames"
    for _ in range(2):  # the same input again is fine
        predicts("--input", left, "--output_dir", tmp_path, "--no_overlay")
    lists = tmp_path / "result" / "frames" / "detections" / f"{UNET}.json"
    before = lists.read_bytes()
    assert json.loads(before)["input"] == str(left.resolve())
    with pytest.raises(UserError, match="frames: holds results of another input, "
                       f"{left.resolve()}; name another folder with --output, or remove it$"):
        predicts("--input", tmp_path / "right" / "frames", "--output_dir", tmp_path,
                 "--model_name", "L2SKNet_FPN")
    assert lists.read_bytes() == before and len(list(lists.parent.parent.rglob("*.mat"))) == 1
    predicts("--input", tmp_path / "right" / "frames", "--output", lists.parent.parent,
             "--no_overlay")  # by choice
    assert len(list(lists.parent.parent.rglob("*.mat"))) == 2
    lists.write_text("no list")  # damaged: it does not say whose results they are
    predicts("--input", tmp_path / "right" / "frames", "--output_dir", tmp_path, "--no_overlay")
    assert json.loads(lists.read_bytes())["input"].endswith("right/frames")


def test_lists_of_an_earlier_run_do_not_outlive_its_images(tmp_path, predicts):
    image, flags = tmp_path / "a.png", ("--output_dir", tmp_path, "--no_overlay")
    Image.fromarray(scene()[0]).save(image)
    predicts("--input", image, *flags)
    image.write_text("no image")
    lists = tmp_path / "result" / "a" / "detections"
    (lists / f"{UNET}.coco.json").write_text("{}")
    with pytest.raises(UserError, match="a.png: cannot be read as an image"):
        predicts("--input", image, *flags)
    assert not (lists / f"{UNET}.coco.json").exists()
    assert read_table(lists / f"{UNET}.csv") == []
    content = json.loads((lists / f"{UNET}.json").read_text())
    assert content["images"] == [] and [bad["file"] for bad in content["unreadable"]] == ["a.png"]


def test_a_model_of_which_there_are_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="^L2SKNet_FPN is not trained on Tiny; train it .python "
                       "train_device0.py --model_name L2SKNet_FPN --dataset_name Tiny."):
        load("test.py").main(["--model_name", "L2SKNet_FPN", "--dataset_name", "Tiny",
                              "--output_dir", str(tmp_path)])


def test_bad_inputs(tmp_path, predicts, monkeypatch):
    with pytest.raises(UserError, match="nowhere: no such image or folder"):
        predicts("--input", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no image in this folder"):
        predicts("--input", tmp_path)
    with pytest.raises(SystemExit):
        predicts("--input", tmp_path, "--tile", 8)  # at least 64
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    assert complaint(predicts, "--input", bad, "--output", tmp_path / "out").startswith(
        f"{bad}: cannot be read")
    assert not (tmp_path / "out").exists()
    for index in range(30):
        (tmp_path / f"{index:02}.png").write_text("no image")
    with pytest.raises(UserError, match="31 of 31 images could not be used") as error:
        predicts("--input", tmp_path, "--output", tmp_path / "out")
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and lines[-1].strip() == "and 11 more"

    good = tmp_path / "good.png"
    Image.fromarray(scene()[0]).save(good)
    with pytest.raises(UserError, match="results cannot be written.*--output"):
        predicts("--input", good, "--output", bad)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1e8)
    with pytest.raises(UserError, match=r"good.png: 30x20 needs about 0.2 GB.*0.1 GB are free"):
        predicts("--input", good, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Streams


def test_predictions_that_are_no_numbers_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="^a: not written, M predicts NaN or infinity; take other"):
        save_prediction(np.full((3, 4), np.nan, np.float32), tmp_path, "M", "a")
    assert not list(tmp_path.iterdir())


def interrupt_after(done, monkeypatch):
    """Interrupts the prediction of frames after `done` frames."""
    predict_one, calls = frames.predict, itertools.count()  # call 0 is the warm-up

    def interrupted(net, x):
        if next(calls) > done:
            raise KeyboardInterrupt
        return predict_one(net, x)

    monkeypatch.setattr(frames, "predict", interrupted)


def test_what_was_found_before_an_interruption_is_kept(weights, monkeypatch, tmp_path):
    files = [tmp_path / f"{index:02}.png" for index in range(12)]
    for file in files:
        Image.fromarray(scene()[0]).save(file)
    options = frames.FrameOptions(num_workers=2, overlays=False)
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        frames.predict_frames(UNET, weights, ImageSource(tmp_path), tmp_path / "out", options)
    rows = read_table(tmp_path / "out" / "detections" / f"{UNET}.csv")
    assert [row["file"] for row in rows] == ["00.png"] * 2 + ["01.png"] * 2 + ["02.png"] * 2
    saved = sorted(path.name for path in (tmp_path / "out" / "mat" / UNET).iterdir())
    assert saved == ["00.mat", "01.mat", "02.mat"]


def test_sigterm_ends_a_prediction_as_ctrl_c_does(tmp_path):
    Image.fromarray(scene()[0]).save(tmp_path / "a.png")
    code = ("import os, runpy, signal\n"
            "from utils.predict import frames\n"
            "def killed(*_):\n"
            "    try:\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "    finally:\n"  # a second one, while the lists are written
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "        print('kept')\n"
            "frames.predict_frames = killed\n"
            "runpy.run_path('test.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, "--input", tmp_path / "a.png", "--output",
                           tmp_path / "out", "--device", "cpu"], cwd=ROOT, capture_output=True,
                          text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted")
    assert done.stdout.endswith("kept\n")


def test_a_run_that_is_killed_leaves_the_name_of_its_input(weights, monkeypatch, tmp_path):
    Image.fromarray(scene()[0]).save(tmp_path / "a.png")
    out = tmp_path / "out"
    options = frames.FrameOptions(num_workers=1, overlays=False)

    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    monkeypatch.setattr(frames, "save_prediction", killed)
    monkeypatch.setattr(frames.ranks, "size", lambda: 2)  # as if nothing could be written after it
    monkeypatch.setattr(frames.ranks, "subset", lambda: slice(None))
    with pytest.raises(Killed):
        frames.predict_frames(UNET, weights, ImageSource(tmp_path / "a.png"), out, options)
    monkeypatch.undo()
    frames.refuse_mixing(out, [UNET], tmp_path / "a.png")  # the same again is fine
    with pytest.raises(UserError, match="holds results of another input, .*a.png"):
        frames.refuse_mixing(out, [UNET], tmp_path / "b.png")


def test_a_second_run_leaves_nothing_of_the_first_beside_it(weights, monkeypatch, tmp_path):
    Image.fromarray(scene()[0]).save(tmp_path / "a.png")
    out, source = tmp_path / "out", ImageSource(tmp_path / "a.png")
    frames.predict_frames(UNET, weights, source, out, frames.FrameOptions(coco=True))
    video = out / "overlay" / f"{UNET}.mp4"
    video.write_bytes(b"of a clip")
    written = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    frames.predict_frames(UNET, weights, source, out, frames.FrameOptions(overlays=False))
    left = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    gone = {f"detections/{UNET}.coco.json", f"overlay/{UNET}/a.png", f"overlay/{UNET}.mp4"}
    assert {str(path) for path in written - left} == gone and left < written
    # The clip of another input stays, and so does all of a run whose prediction fails.
    video.write_bytes(b"of a clip")
    Image.fromarray(scene()[0]).save(tmp_path / "b.png")
    frames.predict_frames(UNET, weights, ImageSource(tmp_path / "b.png"), out,
                          frames.FrameOptions(overlays=False))
    assert video.exists()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    interrupt_after(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        frames.predict_frames(UNET, weights, ImageSource(tmp_path / "b.png"), out,
                              frames.FrameOptions(overlays=False))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_frames_of_one_size_in_batches_give_what_single_frames_give(weights, tmp_path, monkeypatch):
    """As on a GPU."""
    (tmp_path / "in").mkdir()
    shapes = [(40, 56)] * 4 + [(48, 32), (40, 56), (40, 56)]
    for i, shape in enumerate(shapes):
        image = np.random.default_rng(i).integers(0, 255, shape, np.uint8)
        Image.fromarray(image).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "5b.png").write_bytes(b"no image")
    source, batches, found = ImageSource(tmp_path / "in"), [], []
    predict_any = frames.predict
    monkeypatch.setattr(
        frames, "predict", lambda net, x: (batches.append(x.shape), predict_any(net, x))[1])
    for most in (1, 3):
        monkeypatch.setattr(frames, "AT_ONCE", {"cpu": most})
        monkeypatch.setattr(frames, "BATCH_PIXELS", 3 * 40 * 56)
        out = tmp_path / str(most)
        outcome = frames.predict_frames(UNET, weights, source, out, frames.FrameOptions())
        assert [*outcome.problems] == ["5b.png"]
        found.append([loadmat(out / "mat" / UNET / f"{i}.mat")["T"] for i in range(len(shapes))])
    assert [shape[0] for shape in batches] == [1, *[1] * 7, 1, 3, 1, 1, 2]
    for single, together in zip(*found):
        np.testing.assert_allclose(together, single, atol=1e-6)


# Folders in folders


def test_folders_below_are_taken_and_the_results_keep_them(tmp_path, predicts, capsys):
    image, expected = scene()
    place = tmp_path / "frames"
    for name in ("1.png", "day/1.png", "day/1.bmp", "day/late/2.png", ".trash/3.png",
                 "overlay/notes/4.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / name)
    (place / "day" / "again").symlink_to(place)  # a circle
    (place / "day" / "cut.png").write_bytes((place / "1.png").read_bytes()[:60])
    names = ["1", "day/1_bmp", "day/1_png", "day/late/2", "overlay/notes/4"]
    table = place / "detections" / f"{UNET}.csv"
    for _ in range(2):  # the second time with the results of the first among the folders
        assert complaint(predicts, "--input", place, "--output", place).startswith(
            f"{place / 'day' / 'cut.png'}: cannot be read")
        assert "5 images in " in capsys.readouterr().out
        assert_written(place, UNET, names)
        rows = read_table(table)
        assert [row["file"] for row in rows] == [
            name for name in ("1.png", "day/1.bmp", "day/1.png", "day/late/2.png",
                              "overlay/notes/4.png") for _ in expected]
        assert [float(row["x"]) for row in rows] == 5 * [found.x for found in expected]
    unreadable = json.loads(table.with_suffix(".json").read_text())["unreadable"]
    assert [each["file"] for each in unreadable] == ["day/cut.png"]


# Frames in one file


def save_stack(path, frames):
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest)
    return path


def test_a_stack_is_predicted_page_by_page(tmp_path, predicts, capsys):
    frames_in = [scene(20, 30, np.uint16, 65535)[0], scene(24, 33, np.uint16, 65535)[0],
                 np.zeros((20, 30), np.uint16)]
    folder = tmp_path / "frames"
    folder.mkdir()
    save_stack(folder / "camera.tif", frames_in)
    Image.fromarray(frames_in[0]).save(folder / "single.tif")
    predicts("--input", folder, "--output", tmp_path / "found")
    assert "4 images in " in capsys.readouterr().out
    names = ["camera_0001", "camera_0002", "camera_0003", "single"]
    assert_written(tmp_path / "found", UNET, names)
    maps = [loadmat(tmp_path / "found" / "mat" / UNET / f"{name}.mat")["T"] for name in names]
    assert [array.shape for array in maps] == [(20, 30), (24, 33), (20, 30), (20, 30)]
    np.testing.assert_array_equal(maps[0], maps[3])
    assert (maps[2] < maps[0].max()).all()
    rows = read_table(tmp_path / "found" / "detections" / f"{UNET}.csv")
    assert [row["file"] for row in rows] == [
        f"{name}.tif" for name in (names[0], names[1], names[3]) for _ in range(2)]


def test_a_smaller_copy_of_a_page_is_no_page(tmp_path):
    path = tmp_path / "a.tif"
    for small, expected in ((False, 2), (True, 1)):
        with tifffile.TiffWriter(path) as file:
            file.write(np.full((40, 40), 9, np.uint8))
            file.write(np.zeros((20, 20), np.uint8), subfiletype=int(small))
        assert len(pages([path])) == expected
    np.testing.assert_array_equal(read_gray(path), np.full((40, 40), 9))


def test_a_large_stack_of_imagej_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    for length in (3, 1):
        tifffile.imwrite(path, np.zeros((length, 20, 30), np.uint16), imagej=True, truncate=True)
        found = pages([path])
        assert len(found) == (2 if length > 1 else 1)
        if length > 1:
            with pytest.raises(UserError, match="a.tif page 2: ImageJ keeps 3 images in one entry"):
                read_gray(found[1])
            with pytest.raises(UserError, match="a.tif: ImageJ keeps 3 images in one entry"):
                read_gray(path)
    # A single image with the description of its stack.
    for tile in (None, (16, 16)):
        tifffile.imwrite(path, np.zeros((20, 30), np.uint16), tile=tile,
                         description="ImageJ=1.54f\nimages=3\n")
        assert len(pages([path])) == 1
        np.testing.assert_array_equal(read_gray(path), np.zeros((20, 30), np.uint16))


def test_of_a_file_that_breaks_off_the_pages_before_are_read(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for level in range(5):
            file.write(np.full((40, 40), level, np.uint8))
    path.write_bytes(path.read_bytes()[:-2500])
    *whole, last = pages([path])
    assert 1 < len(whole) < 5
    for level, page in enumerate(whole[:-1]):
        np.testing.assert_array_equal(read_gray(page), np.full((40, 40), level))
    with pytest.raises(UserError, match=f"^{path} page {len(whole) + 1}: cannot be read"):
        read_gray(last)


def test_pages_are_read_one_at_a_time_and_a_damaged_one_is_named(tmp_path):
    values = [np.full((40, 40), level, np.uint8) for level in range(12)]
    path = save_stack(tmp_path / "s.tif", values)
    found = pages([path, tmp_path / "none.tif", tmp_path / "a.png"])
    assert [str(page) for page in found[:2]] == [f"{path} page 1", f"{path} page 2"]
    assert found[12:] == [tmp_path / "none.tif", tmp_path / "a.png"]
    for number in (7, 0, 11, 3):  # the file is closed after its last page, and opened again
        np.testing.assert_array_equal(read_gray(found[number]), values[number])
    assert [read_size(page) for page in found[:12]] == [(40, 40)] * 12
    content = path.read_bytes()
    start = content.index(values[5].tobytes())
    path.write_bytes(content[:start])  # the sizes are known; pages from the sixth on are gone
    np.testing.assert_array_equal(read_gray(found[2]), values[2])
    with pytest.raises(UserError, match=f"^{path} page 8: cannot be read"):
        read_gray(found[7])
