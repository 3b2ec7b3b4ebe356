"""The ROC curve of the official code: targets hit against background pixels lit; and precision
and recall of pixels at the same thresholds.

A target is hit at a threshold when any of its pixels reaches it, so only its brightest pixel
matters, and false pixels at all thresholds are one cumulative histogram: no pass per threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .pd_fa import Regions

THRESHOLDS = np.arange(201) / 200


class RocCounts(NamedTuple):
    """Counts at each of the 201 thresholds, and what they are out of."""

    hits: np.ndarray  # 201, targets with a pixel at or above the threshold
    targets: int
    false_pixels: np.ndarray  # 201, background pixels at or above the threshold
    background: int
    true_pixels: np.ndarray  # 201, target pixels at or above the threshold
    target_pixels: int


def _reaching(values: np.ndarray) -> np.ndarray:
    """How many `values` are >= each threshold, compared in the precision of `values`."""
    thresholds = np.append(THRESHOLDS, np.inf).astype(values.dtype)
    # Most of a map lies below the first step: those need no search.
    above = values[values >= thresholds[1]]
    # The last threshold that a value reaches: a guess that rounding may put one off, mended by
    # the comparisons themselves (a binary search takes twice as long).
    last = (above * (len(THRESHOLDS) - 1)).astype(np.intp)
    last -= above < thresholds[last]
    last += above >= thresholds[last + 1]
    reached = np.bincount(last, minlength=len(THRESHOLDS))
    reached[0] += values.size - above.size
    return reached[::-1].cumsum()[::-1]


def roc_counts(pred: np.ndarray, targets: Regions) -> RocCounts:
    """Counts of one image.

    Args:
        pred: H×W float map in [0, 1]; already divided by its own maximum for the official curve.
        targets: the regions of its mask.
    """
    target = targets.labels > 0
    background, foreground = pred[~target], pred[target]
    peaks = np.zeros(len(targets.areas), dtype=pred.dtype)
    np.maximum.at(peaks, targets.labels[target] - 1, foreground)
    return RocCounts(
        _reaching(peaks), len(peaks),
        _reaching(background), background.size,
        _reaching(foreground), foreground.size,
    )


def roc_curve(counts: RocCounts) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr), 201 points each, threshold 0 first; all 0 where there is nothing to hit."""
    return (
        counts.false_pixels / max(counts.background, 1),
        counts.hits / max(counts.targets, 1),
    )


def precision_recall_curve(counts: RocCounts) -> tuple[np.ndarray, np.ndarray]:
    """(precision, recall) of pixels, 201 points each, threshold 0 first.

    Precision is 1 where nothing is detected: none of that is wrong.
    """
    detected = counts.true_pixels + counts.false_pixels
    precision = np.where(detected == 0, 1.0, counts.true_pixels / np.maximum(detected, 1))
    return precision, counts.true_pixels / max(counts.target_pixels, 1)


def auc(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area under the curve by the trapezoid rule; points in threshold order, so fpr falls."""
    return float(np.sum((fpr[:-1] - fpr[1:]) * (tpr[:-1] + tpr[1:])) / 2)
