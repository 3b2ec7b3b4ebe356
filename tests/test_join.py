"""prepare_dataset.py with several sources: one dataset of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scripts import complaint

from utils.data.synthetic import write_sample_dataset
from utils.datasets import load_splits


@pytest.fixture
def sources(tmp_path):
    """Two datasets with images of the same names: one has no test list, and masks NAME_mask."""
    first = write_sample_dataset(tmp_path / "A", 5, 2, 32)
    second = write_sample_dataset(tmp_path / "my.frames", 3, 1, 40)
    (second / "test.txt").unlink()
    (second / "images" / "sample_0004.png").unlink()  # the image of the test list
    for path in sorted((second / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask{path.suffix}"))
    Image.new("L", (40, 40)).save(second / "masks" / "sample_0002_mask.png")  # no target
    return first, second


def test_sources_become_one_dataset(tmp_path, sources, prepare_script):
    first, second = sources
    assert ("== joined\ntrain.txt: 5 of A, 3 of my.frames\n"
            "test.txt: 2 of A, 0 of my.frames\n") in prepare_script(
                first, second, "--name", "BOTH")
    train, test = load_splits(tmp_path / "data", "BOTH")
    assert train.names == [f"A_sample_{i:04d}" for i in range(1, 6)] + [
        f"my.frames_sample_{i:04d}" for i in range(1, 4)]
    assert test.names == ["A_sample_0006", "A_sample_0007"]
    assert [image.shape for image in train.images] == [(32, 32)] * 5 + [(40, 40)] * 3
    for name, image, mask in zip(train.names, train.images, train.masks):
        folder, suffix = (first, "") if name.startswith("A_") else (second, "_mask")
        stem = name.partition("_")[2]
        np.testing.assert_array_equal(image, Image.open(folder / "images" / f"{stem}.png"))
        own = np.asarray(Image.open(folder / "masks" / f"{stem}{suffix}.png"))
        np.testing.assert_array_equal(mask, own > 127)
    assert [bool(mask.any()) for mask in train.masks] == [True] * 6 + [False, True]
    links = [path for path in (tmp_path / "data" / "BOTH").rglob("*.png")]
    assert len(links) == 20 and all(path.is_symlink() and path.is_file() for path in links)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["BOTH"]


def test_images_on_no_list_are_left_out_of_the_joint_lists(tmp_path, sources, prepare_script):
    first, second = sources
    (second / "train.txt").write_text("sample_0001\n")
    text = prepare_script(first, second, "--name", "BOTH")
    assert "train.txt: 5 of A, 1 of my.frames\ntest.txt: 2 of A, 0 of my.frames\n" in text
    assert "on no list, left out: sample_0002, sample_0003\n" in text


def test_nothing_is_left_where_a_source_is_refused(tmp_path, sources, prepare_script):
    first, second = sources
    other = write_sample_dataset(tmp_path / "other" / "A", 2, 1, 32)
    for given, says in (((first, tmp_path / "none"), f"{tmp_path / 'none'}: no such folder or"),
                        ((first, other), "A: several sources have this name")):
        assert complaint(prepare_script, *given, "--name", "BOTH").startswith(says)
        assert not list((tmp_path / "data").glob("*"))
    clash = write_sample_dataset(tmp_path / "A_my", 2, 1, 32)
    for kind in ("images", "masks"):  # A_my + sample_0001, A + my_sample_0001
        (first / kind / "sample_0001.png").rename(first / kind / "my_sample_0001.png")
    (first / "train.txt").write_text("my_sample_0001\nsample_0002\n")
    assert "A_my_sample_0001.png: would be the name of an image of A_my and of " in complaint(
        prepare_script, first, clash, "--name", "BOTH")
    dotted = write_sample_dataset(tmp_path / ".hid", 2, 1, 32)
    assert complaint(prepare_script, second, dotted, "--name", "BOTH").startswith(".hid: would be")
    assert not list((tmp_path / "data").glob("*"))
    built = second.rename(tmp_path / "built")  # no name of ours is in the way
    prepare_script(first, built, "--name", "BOTH")
    assert "BOTH: exists already; remove it" in complaint(
        prepare_script, first, built, "--name", "BOTH")
