"""The sample data: readable as a dataset, small and dim targets, the same pixels for a seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from utils.data import synthetic
from utils.datasets import load_splits
from utils.errors import UserError


def write(folder, *counts, seed=3):
    """Images and masks of a sample dataset, read by the loader."""
    synthetic.write_sample_dataset(folder, *counts, (128, 160), seed)
    splits = load_splits(folder.parent, folder.name)
    assert tuple(map(len, splits)) == counts
    return [np.stack(a + b) for a, b in zip(*((s.images, s.masks) for s in splits))]


def test_targets_are_small_dim_and_often_darker_than_clutter(tmp_path):
    areas, contrasts, brighter = [], [], []
    for image, mask in zip(*write(tmp_path / "A", 40, 20)):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        assert count <= 3
        for target in (labels == label for label in range(1, count + 1)):
            around = ndimage.binary_dilation(target, iterations=5) & (mask == 0)
            areas.append(target.sum())
            contrasts.append(image[target].mean() - image[around].mean())
            brighter.append(np.mean(image > image[target].mean()) > 0.01)
    assert 12 <= np.median(areas) <= 35 and max(areas) <= 110 and len(areas) > 50
    assert 25 <= np.median(contrasts) <= 60 and min(contrasts) > 5 and np.mean(brighter) > 0.3


def test_the_seed_gives_the_pixels(tmp_path):
    images, masks = write(tmp_path / "A", 6, 3)
    for again, before in zip(write(tmp_path / "B", 3, 2), (images, masks)):
        np.testing.assert_array_equal(again, before[:5])
    assert (write(tmp_path / "C", 3, 2, seed=4)[0] != images[:5]).any(axis=(1, 2)).all()
    assert len({image.tobytes() for image in images}) == 9


def test_a_folder_is_left_alone_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="dangling: exists already"):
        synthetic.write_sample_dataset(tmp_path / "dangling")
    made = [synthetic.make_sample(32, 32, np.random.default_rng(0))]
    monkeypatch.setattr(synthetic, "make_sample", lambda *_: made.pop())
    with pytest.raises(IndexError):
        synthetic.write_sample_dataset(tmp_path / "data" / "SET", 4, 1, 32)
    assert list((tmp_path / "data").iterdir()) == []
