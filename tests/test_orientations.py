"""benchmarks/orientations.py: the offset of masks, and scores of turned images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from brightness import save_brightness_weights
from PIL import Image

from benchmarks import orientations
from utils.data.datasets import Split
from utils.errors import UserError
from utils.places import BEST, checkpoint_folder

SIZE = 48


def blob(row, column, offset=(0.0, 0.0), level=150.0):
    """(image, mask): a Gaussian on an even background, and 3×3 pixels around (row, column)."""
    y, x = np.indices((SIZE, SIZE)) - np.reshape((row + offset[0], column + offset[1]), (2, 1, 1))
    image = 40 + level * np.exp(-(y**2 + x**2) / 2)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[row - 1 : row + 2, column - 1 : column + 2] = 1
    return image.round().astype(np.uint8), mask


def split_of(*pairs):
    images, masks = zip(*pairs)
    names = [f"{i}" for i in range(len(pairs))]
    return Split("SET", "test", Path("SET"), names, list(images), list(masks))


def test_offsets_are_those_of_the_brightness():
    split = split_of(blob(20, 24), blob(20, 24, (0.5, -0.25)))
    np.testing.assert_allclose(orientations.brightness_offsets(split), [(0, 0), (0.5, -0.25)],
                               atol=0.05)
    turned = [orientations.brightness_offsets(orientations.turned(split, bits))[1]
              for bits in range(len(orientations.TURNS))]
    np.testing.assert_allclose(
        turned, [(0.5, -0.25), (-0.5, -0.25), (0.5, 0.25), (-0.5, 0.25), (-0.25, 0.5)], atol=0.05)


def test_targets_at_the_rim_and_dark_ones_are_left_out():
    dark = blob(20, 24, level=-40.0)
    at_the_rim, near_it = blob(5, 24), blob(6, 24)
    assert orientations.brightness_offsets(split_of(dark, at_the_rim)).shape == (0, 2)
    assert len(orientations.brightness_offsets(split_of(near_it))) == 1


@pytest.fixture
def place(tmp_path):
    """A dataset of two images, and a network that finds what is brighter than half."""
    pairs = [blob(20, 24), blob(30, 12, (0.0, 0.5))]
    for folder in ("images", "masks"):
        (tmp_path / "data" / "SET" / folder).mkdir(parents=True)
    for i, (image, mask) in enumerate(pairs):
        Image.fromarray(image).save(tmp_path / "data" / "SET" / "images" / f"{i}.png")
        Image.fromarray(mask * 255).save(tmp_path / "data" / "SET" / "masks" / f"{i}.png")
    for name in ("train.txt", "test.txt"):
        (tmp_path / "data" / "SET" / name).write_text("0\n1\n")
    weights = checkpoint_folder(tmp_path, "SET", "L2SKNet_UNet") / BEST
    weights.parent.mkdir(parents=True)
    save_brightness_weights(weights)
    return tmp_path


def flags(place):
    return ["--dataset_dir", str(place / "data"), "--output_dir", str(place), "--dataset_name",
            "SET", "--device", "cpu"]


def test_the_command_on_a_network_that_knows_no_direction(place, cpu, capsys):
    orientations.main(flags(place))
    output = capsys.readouterr().out
    assert re.search(r"brightness lies -?0\.0\d\d ± 0\.0\d\d pixels below .*, 2 targets", output)
    rows = re.findall(r"^\| L2SKNet_UNet \| (.*?) \| (.*) \|$", output, re.M)
    assert tuple(name for name, _ in rows) == orientations.TURNS
    assert len({scores for _, scores in rows}) == 1
    assert 0.3 < float(rows[0][1].split(" | ")[0]) < 1


def test_the_command_without_bright_targets(place, cpu):
    for path in (place / "data" / "SET" / "images").iterdir():
        Image.new("L", (SIZE, SIZE)).save(path)
    with pytest.raises(UserError, match="no bright target"):
        orientations.main(flags(place))
