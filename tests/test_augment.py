"""What training shows of an image: crops on targets, scale, light, and that all of it is fixed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from utils.data.augment import (
    augmented,
    change_light,
    corner,
    crop_at,
    orient,
    orientation,
    target_corner,
)
from utils.errors import UserError
from utils.recipe import Recipe

ALL = Recipe(augment=True, crop=24, target_crops=0.5, scale=2.0, photometric=True)


# Rows and columns where the targets of `scene` begin and end.
TARGETS = {"at the edge": (0, 88, 3, 90), "inside": (30, 40, 35, 45)}


def scene(height=60, width=90):
    """Noise; the mask has the two targets."""
    image = np.random.default_rng(3).integers(0, 256, (height, width), np.uint8, endpoint=False)
    mask = np.zeros((height, width), np.uint8)
    for top, left, bottom, right in TARGETS.values():
        mask[top:bottom, left:right] = 1
    return image, mask


def test_all_is_a_function_of_seed_epoch_and_image():
    image, mask = scene()
    before = image.copy(), mask.copy()
    first = augmented(image, mask, ALL, (42, 3, 7))
    for again, array in zip(augmented(image, mask, ALL, (42, 3, 7)), first):
        np.testing.assert_array_equal(again, array)
    for other in ((43, 3, 7), (42, 4, 7), (42, 3, 8)):
        assert not np.array_equal(augmented(image, mask, ALL, other)[0], first[0])
    for array, unchanged in zip((image, mask), before):
        np.testing.assert_array_equal(array, unchanged)
    assert first[0].dtype == np.float32 and first[1].dtype == np.uint8
    assert first[0].shape == first[1].shape == (24, 24)
    plain = augmented(image, mask, Recipe(), (42, 3, 7))
    np.testing.assert_array_equal(plain[0], image / np.float32(255))
    np.testing.assert_array_equal(plain[1], mask)


def test_all_orientations_are_as_likely():
    counts = np.bincount([orientation((42, epoch, 3)) for epoch in range(800)], minlength=8)
    assert len(counts) == 8 and counts.min() > 70
    image = np.arange(9).reshape(3, 3)
    assert len({orient(image, k).tobytes() for k in range(8)}) == 8


def test_crops_begin_anywhere_and_mirror_what_they_lack():
    corners = [corner((18, 17), 16, (5, epoch, 2)) for epoch in range(600)]
    assert np.bincount([2 * row + column for row, column in corners]).min() > 50
    assert {row for row, _ in corners} == {0, 1, 2} and {c for _, c in corners} == {0, 1}
    image = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(crop_at(image, 4, corner((2, 3), 4, (0, 1, 0))), [
        [0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]])


@pytest.mark.parametrize("options", [
    {"crop": 24, "target_crops": 1.0}, {"crop": 24, "scale": 2.0}, {"augment": True, "crop": 24},
    {"crop": 24, "target_crops": 0.5, "scale": 1.5, "augment": True},
])
def test_mask_and_image_move_together(options):
    # The image is its own mask, smoothed so that a resized target stays above half.
    _, mask = scene()
    mask = ndimage.binary_dilation(mask, iterations=3).astype(np.uint8)
    for epoch in range(40):
        image, seen = augmented(mask * 255, mask, Recipe(**options), (1, epoch, 0))
        if options.get("scale"):
            # Where bilinear and nearest may differ is only the edge of a target.
            inside = ndimage.binary_erosion(seen, iterations=2, border_value=1)
            outside = ndimage.binary_erosion(1 - seen, iterations=2, border_value=1)
            assert (image[inside] > 0.9).all() and (image[outside] < 0.1).all()
        else:
            np.testing.assert_array_equal(image, seen)


@pytest.mark.parametrize("crop", [8, 24, 64, 100])
def test_a_crop_on_a_target_contains_it(crop):
    _, mask = scene()
    places, whole = set(), set()
    for epoch in range(200):
        row, column = target_corner(mask, crop, 1.0, (5, epoch, 0))
        assert 0 <= row <= max(0, 60 - crop) and 0 <= column <= max(0, 90 - crop)
        inside = {name for name, (top, left, bottom, right) in TARGETS.items()
                  if row <= top and bottom <= row + crop
                  and column <= left and right <= column + crop}
        assert inside
        assert crop_at(mask, crop, (row, column)).shape == (crop, crop)
        places.add((row, column))
        whole |= inside
    assert whole == set(TARGETS)
    assert len(places) == 1 if crop == 100 else len(places) > 10


def test_a_target_larger_than_the_crop_fills_it():
    mask = np.zeros((40, 50), np.uint8)
    mask[5:30, 10:45] = 1
    places = {target_corner(mask, 16, 1.0, (0, epoch, 0)) for epoch in range(400)}
    assert all(crop_at(mask, 16, place).all() for place in places)
    assert {min(row for row, _ in places), max(row for row, _ in places)} == {5, 14}
    assert {min(c for _, c in places), max(c for _, c in places)} == {10, 29}


def test_a_share_of_the_crops_is_on_targets():
    image, mask = scene(300, 300)
    on = [target_corner(mask, 16, 0.25, (9, epoch, 0)) is not None for epoch in range(2000)]
    assert 0.22 < np.mean(on) < 0.28
    some = Recipe(crop=16, target_crops=0.25)
    other = Recipe(crop=16)
    for epoch, on_target in enumerate(on[:50]):
        _, seen = augmented(image, mask, some, (9, epoch, 0))
        if on_target:
            assert seen.any()
        else:  # as without the option
            _, plain = augmented(image, mask, other, (9, epoch, 0))
            np.testing.assert_array_equal(seen, plain)
    assert target_corner(np.zeros_like(mask), 16, 1.0, (9, 1, 0)) is None


def test_scale_enlarges_and_shrinks_alike():
    # One target of 9×9 in the middle: its area in the crop tells the factor.
    mask = np.zeros((65, 65), np.uint8)
    mask[28:37, 28:37] = 1
    way = Recipe(crop=33, target_crops=1.0, scale=2.0)
    sides = [np.sqrt(augmented(mask * 255, mask, way, (2, epoch, 0))[1].sum()) / 9
             for epoch in range(400)]
    assert 0.4 < min(sides) < 0.56 and 1.85 < max(sides) < 2.1
    assert 0.94 < np.exp(np.mean(np.log(sides))) < 1.06
    # The window at 1/2 is larger than the picture and still gives a crop of the size.
    assert all(augmented(mask, mask, way, (2, epoch, 0))[0].shape == (33, 33)
               for epoch in range(20))


def test_light_changes_within_its_ranges():
    image = np.linspace(0.3, 0.6, 64 * 64, dtype=np.float32).reshape(64, 64)
    shown = [change_light(image, (7, epoch, 0)) for epoch in range(300)]
    assert all(one.dtype == np.float32 and one.min() >= 0 and one.max() <= 1 for one in shown)
    shift = [one.mean() - image.mean() for one in shown]
    spread = [one.std() / image.std() for one in shown]
    assert -0.4 < min(shift) < -0.2 and 0.2 < max(shift) < 0.4 and abs(np.mean(shift)) < 0.05
    assert 0.35 < min(spread) < 0.7 and 1.5 < max(spread) < 2.6
    noise = [np.std(np.diff(one, axis=1)) / 2**0.5 for one in shown]
    assert min(noise) < 0.002 and 0.015 < max(noise) < 0.022
    # A brighter pixel stays brighter, the noise aside.
    assert all(np.corrcoef(one.ravel(), image.ravel())[0, 1] > 0.8 for one in shown)


@pytest.mark.parametrize("option", [{"scale": 1.5}, {"target_crops": 0.25}])
def test_what_changes_crops_needs_crops(option):
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=f"^--{name} {value}: has no effect.*add --crop PIXELS$"):
        Recipe(**option)
    assert Recipe(crop=64, **option).describe().count(f"{value}") >= 1
