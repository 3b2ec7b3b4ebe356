"""The demo's own pieces: its dataset, its steps, its picture."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT, is_of

import demo
from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_splits
from utils.errors import UserError
from utils.report import panels
from utils.report.panels import HIT, MISS, TARGET, Examples, detection_figure


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "N_TRAIN", 3)
    monkeypatch.setattr(demo, "N_TEST", 2)
    monkeypatch.setattr(demo, "SIZE", 32)


def test_without_the_dataset_samples_are_written_once(small, tmp_path):
    for _ in range(2):
        assert demo.make_dataset(tmp_path / "data", tmp_path / "demo") == "SAMPLE"
    train, test = load_splits(tmp_path / "demo", "SAMPLE")
    assert (len(train), len(test)) == (3, 2)
    assert train.images[0].shape == (32, 32)
    assert not (tmp_path / "data").exists()


def test_with_the_dataset_pieces_with_targets_are_copied(small, tmp_path):
    write_sample_dataset(tmp_path / "data/NUDT-SIRST", 8, 8, (80, 96))
    assert demo.make_dataset(tmp_path / "data", tmp_path / "demo") == "NUDT-SIRST-subset"
    wholes = load_splits(tmp_path / "data", "NUDT-SIRST")
    pieces = load_splits(tmp_path / "demo", "NUDT-SIRST-subset")
    assert [len(split) for split in pieces] == [3, 2]
    for whole, part in zip(wholes, pieces):
        for name, image, mask in zip(part.names, part.images, part.masks):
            index = list(whole.names).index(name)
            windows = np.lib.stride_tricks.sliding_window_view(whole.images[index], (32, 32))
            assert (windows == image).all(axis=(2, 3)).any()
            assert image.shape == (32, 32) and mask.any()


def test_steps_show_their_command_and_a_failing_one_stops(capfd):
    demo.run("-c", "print('here')")
    assert "$ python -c 'print('\"'\"'here'\"'\"')'\nhere\n" in capfd.readouterr().out
    with pytest.raises(UserError, match="-c ended with status 3"):
        demo.run("-c", "raise SystemExit(3)")


def test_help_needs_no_environment():
    run = subprocess.run([sys.executable, ROOT / "demo.py", "--help"],
                         capture_output=True, text=True)
    assert run.returncode == 0 and "python3 demo.py" in run.stdout


def test_detection_figure_marks_hits_misses_and_false_alarms(tmp_path):
    image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    mask = np.zeros((64, 64), np.uint8)
    mask[20:23, 40:43] = 1
    outcomes = {"hit": mask * 0.9, "miss": mask * 0.4, "false": mask * 0.9}
    outcomes["false"] = outcomes["false"] + np.roll(mask, 12, axis=0) * 0.9
    pixels = {}
    for name, prediction in outcomes.items():
        path = tmp_path / f"{name}.png"
        detection_figure([path], Examples(["one"], [image], [mask], {name: [prediction]}))
        picture = Image.open(path)  # its panels are grey
        pixels[name] = {color: is_of(picture, color, 39).sum() for color in (TARGET, HIT, MISS)}
    legend = min(count[HIT] for count in pixels.values())
    assert pixels["hit"][HIT] > legend + 50 and pixels["false"][HIT] > legend + 50
    assert pixels["miss"][MISS] > pixels["hit"][MISS] + 50
    assert pixels["false"][MISS] > pixels["hit"][MISS] + 50
    assert len({count[TARGET] for count in pixels.values()}) == 1


def test_an_error_at_the_rim_of_a_target_is_enlarged_with_the_whole_target(tmp_path, monkeypatch):
    seen = []
    place_inset = panels.place_inset
    monkeypatch.setattr(panels, "place_inset",
                        lambda *given: seen.append(place_inset(*given)) or seen[-1])
    mask = np.zeros((128, 128), np.uint8)
    mask[60:63, 40:58] = 1
    found = mask * 0.9
    found[60, 57] = 0
    shown = Examples(["one"], [mask], [mask], {"net": [found]})
    detection_figure([tmp_path / "rim.png"], shown, zoom_on_errors=True)
    assert seen[0].left < 40 and 58 < seen[0].left + seen[0].side


def test_detection_figure_of_nothing_at_all(tmp_path):
    blank = np.zeros((48, 64))
    shown = Examples(["none"], [blank], [blank], {"network": [blank]})
    detection_figure([tmp_path / "blank.png"], shown)
    assert Image.open(tmp_path / "blank.png").size[0] > 300
