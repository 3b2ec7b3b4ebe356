"""Pixel-level counts of the target class, and the scores made from them.

A score whose denominator is empty is 0, except the IoU of nothing with nothing (see `iou`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PixelCounts(NamedTuple):
    """Pixels detected and target (tp), detected only (fp), target only (fn), neither (tn)."""

    tp: int
    fp: int
    fn: int
    tn: int


def pixel_counts(detected: np.ndarray, target: np.ndarray) -> PixelCounts:
    """Compares two H×W boolean maps pixel by pixel."""
    tp = np.count_nonzero(detected & target)
    fp = np.count_nonzero(detected) - tp
    fn = np.count_nonzero(target) - tp
    return PixelCounts(tp, fp, fn, detected.size - tp - fp - fn)


def ratio(numerator: float, denominator: float, empty: float = 0.0) -> float:
    """numerator / denominator, and `empty` where there is nothing to divide by."""
    return float(numerator / denominator) if denominator else empty


def iou(counts: PixelCounts, empty: float = 0.0) -> float:
    """Intersection over union; `empty` is its value where neither map has a pixel set."""
    return ratio(counts.tp, counts.tp + counts.fp + counts.fn, empty)


def precision(counts: PixelCounts) -> float:
    """The share of detected pixels that belong to a target."""
    return ratio(counts.tp, counts.tp + counts.fp)


def recall(counts: PixelCounts) -> float:
    """The share of target pixels that are detected."""
    return ratio(counts.tp, counts.tp + counts.fn)


def fscore(counts: PixelCounts) -> float:
    """F1, the harmonic mean of precision and recall."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)
