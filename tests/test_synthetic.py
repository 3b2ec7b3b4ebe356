"""The sample data: its layout, its likeness to the real data, and that it is reproducible."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import ndimage
from scripts import ROOT

from utils.data import synthetic
from utils.data.datasets import load_splits
from utils.data.synthetic import write_sample_dataset
from utils.errors import UserError


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "NUDT-SIRST"
    assert write_sample_dataset(folder, n_train=40, n_test=20, size=(128, 160), seed=3) == folder
    return folder


def test_the_layout_is_read_by_the_loader(sample):
    train, test = load_splits(sample.parent, sample.name)
    assert (len(train), len(test)) == (40, 20)
    assert train.describe().startswith("NUDT-SIRST train: 40 images, 160x128, 8 bit; ")
    assert not set(train.names) & set(test.names)
    text = (sample / "README.txt").read_text()
    assert "NOT the NUDT-SIRST" in text
    assert (ROOT / re.search(r"written by (\S+)", text)[1]).is_file()
    assert sorted(path.name for path in sample.parent.iterdir()) == [sample.name]


def test_targets_are_small_dim_and_brighter_than_their_surroundings(sample):
    areas, contrasts, counts, brighter = [], [], [], []
    for split in load_splits(sample.parent, sample.name):
        for image, mask in zip(split.images, split.masks):
            image = image.astype(float)
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            counts.append(count)
            for target in (labels == label for label in range(1, count + 1)):
                around = ndimage.binary_dilation(target, iterations=5)
                around &= ~ndimage.binary_dilation(mask, iterations=1)
                areas.append(target.sum())
                contrasts.append(image[target].mean() - image[around].mean())
                brighter.append(np.mean(image > image[target].mean()))
    assert set(counts) <= {0, 1, 2, 3} and max(counts) >= 2
    assert 12 <= np.median(areas) <= 35 and min(areas) >= 1 and max(areas) <= 110
    assert 25 <= np.median(contrasts) <= 60 and min(contrasts) > 5
    # In many images part of the background outshines the target: a threshold does not do.
    assert np.mean(np.array(brighter) > 0.01) > 0.3


def test_the_seed_gives_the_pixels(sample, tmp_path):
    def pixels(folder):
        train, test = load_splits(folder.parent, folder.name)
        return np.stack(train.images + test.images), np.stack(train.masks + test.masks)

    images, masks = pixels(sample)
    again = write_sample_dataset(tmp_path / "again", 3, 2, size=(128, 160), seed=3)
    for new, old in zip(pixels(again), (images, masks)):
        np.testing.assert_array_equal(new, old[:5])
    other = write_sample_dataset(tmp_path / "other", 3, 2, size=(128, 160), seed=4)
    assert (pixels(other)[0] != images[:5]).any(axis=(1, 2)).all()
    assert len({image.tobytes() for image in images}) == len(images)


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "SET").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("SET", "dangling"):
        with pytest.raises(UserError, match=f"{name}: exists already"):
            write_sample_dataset(tmp_path / name)
    assert list((tmp_path / "SET").iterdir()) == []


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    make, made = synthetic.make_sample, []

    def failing(*args):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(*args)

    monkeypatch.setattr(synthetic, "make_sample", failing)
    with pytest.raises(KeyboardInterrupt):
        write_sample_dataset(tmp_path / "data" / "SET", 4, 1, size=32)
    assert list((tmp_path / "data").iterdir()) == []
