"""Pd, Fa and IoU at many thresholds, and the threshold for a wanted false-alarm rate.

All in the strict definitions: a threshold applies to the maps themselves, as a user of the network
applies it. The thresholds are a fixed grid, so that the curves of several models have the same
points. A threshold that is found is therefore known to one step of the grid, not more finely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from . import pd_fa

# 101 thresholds from 0.00001 to 0.99999, even in the logit: close to each other near 0 and near 1.
GRID = tuple(np.round(1 / (1 + np.exp(-np.linspace(-11.51, 11.51, 101))), 6).tolist())
RESAMPLES, SEED, PERCENTILES = 200, 42, (5, 95)


class SweepCounts(NamedTuple):
    """Counts at each of T thresholds, and what they are out of."""

    detected: np.ndarray  # T, targets
    false_pixels: np.ndarray  # T, pixels of regions without target
    lit: np.ndarray  # T, pixels above the threshold
    lit_target: np.ndarray  # T, pixels of targets above the threshold
    targets: int
    target_pixels: int
    pixels: int


class Sweep(NamedTuple):
    """Scores of a set of images at each of T thresholds, T values each."""

    thresholds: np.ndarray
    pd: np.ndarray
    fa: np.ndarray
    iou: np.ndarray


class Threshold(NamedTuple):
    """A threshold of the grid, and how far it moves from one set of images to another.

    Attributes:
        step: its index in the grid; None if no threshold has so low a Fa.
        spread: percentiles of the threshold over resampled sets of images; infinite where such a
            set has none.
    """

    step: int | None
    spread: tuple[float, float]


def sweep_counts(
    pred: np.ndarray, targets: pd_fa.Regions, thresholds: Sequence[float]
) -> SweepCounts:
    """Counts of one image.

    Args:
        pred: H×W float map in [0, 1].
        targets: the regions of its mask.
        thresholds: rising; may be none.
    """
    # In the type of the map, as `pred > threshold` compares them.
    steps, target = np.array(thresholds, pred.dtype), targets.labels > 0
    detected, false_pixels = np.zeros((2, len(steps)), int)
    lit, lit_target = _above(pred, steps), _above(pred[target], steps)
    if len(steps) and lit[0]:  # nothing is lit outside this box: regions are looked for in it
        (box,) = ndimage.find_objects((pred > steps[0]).astype(np.uint8))
        offset = box[0].start, box[1].start
    for step in range(np.count_nonzero(lit)):
        if step and lit[step] == lit[step - 1]:  # the pixels of the step before
            detected[step], false_pixels[step] = detected[step - 1], false_pixels[step - 1]
        else:
            regions = pd_fa.find_regions(pred[box] > steps[step], offset)
            counts = pd_fa.strict_counts(regions, targets)
            detected[step], false_pixels[step] = counts.detected, counts.false_pixels
    return SweepCounts(detected, false_pixels, lit, lit_target, len(targets.areas),
                       np.count_nonzero(target), pred.size)


def sweep(images: Sequence[SweepCounts], thresholds: Sequence[float]) -> Sweep:
    """The scores of a set of images; a score that is over nothing is 0."""
    total = SweepCounts(*(sum(parts) for parts in zip(*images)))
    union = total.lit + total.target_pixels - total.lit_target
    return Sweep(np.array(thresholds), total.detected / max(total.targets, 1),
                 total.false_pixels / total.pixels, total.lit_target / np.maximum(union, 1))


def threshold_for(
    images: Sequence[SweepCounts], thresholds: Sequence[float], wanted: float
) -> Threshold:
    """The smallest threshold whose Fa is at most `wanted`.

    Thresholds below the first at which mIoU is half of its best are passed over. There regions have
    grown together, in the end over the whole image, and such a region has no false pixels if its
    centroid lies on a target.

    A higher threshold may have a higher Fa again: a region that shrinks to one end of its target
    does not match it any longer, and then is a false alarm.

    The spread is a bootstrap: `RESAMPLES` sets of as many images drawn with replacement, by a
    fixed seed, each with its own threshold, and of these the `PERCENTILES`.
    """
    false = np.stack([image.false_pixels for image in images])
    pixels = np.array([image.pixels for image in images])
    iou = sweep(images, thresholds).iou
    start = int(np.argmax(2 * iou >= iou.max()))
    step = _smallest_step(false.sum(axis=0) / pixels.sum(), wanted, start)
    draws = np.random.default_rng(SEED).multinomial(
        len(images), np.full(len(images), 1 / len(images)), size=RESAMPLES)
    found = [_smallest_step(counts / size, wanted, start)
             for counts, size in zip(draws @ false, draws @ pixels)]
    spread = np.percentile([np.inf if one is None else thresholds[one] for one in found],
                           PERCENTILES, method="inverted_cdf")  # no mean with an infinite one
    return Threshold(step, tuple(spread.tolist()))


def _smallest_step(fa: np.ndarray, wanted: float, start: int) -> int | None:
    low = np.flatnonzero(fa[start:] <= wanted)
    return start + int(low[0]) if low.size else None


def _above(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How many of the values are above each of the rising steps."""
    values = np.sort(values[values > steps.min(initial=np.inf)])
    return len(values) - np.searchsorted(values, steps, side="right")
