"""Targets by their area: how many of each size are found, and how well they are drawn.

Strict definitions: regions above the threshold itself, matched optimally. Bins end at the areas of
squares of 3, 5 and 9 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .hiou import overlaps
from .pd_fa import Regions

LARGEST = (9, 25, 81)  # pixels, the largest area of each bin but the last
BINS = ("1-9", "10-25", "26-81", ">81")


class SizeCounts(NamedTuple):
    """Counts per bin."""

    targets: np.ndarray
    detected: np.ndarray
    iou: np.ndarray  # sum over targets of the IoU with the matched region, 0 without one


def size_counts(
    pairs: Sequence[tuple[int, int]], regions: Regions, targets: Regions
) -> SizeCounts:
    """Counts of one image, whose matched pairs are (target, region)."""
    detected, ious = np.zeros((2, len(targets.areas)))
    common = overlaps(targets, regions)
    for target, region in pairs:
        both = common[target, region]
        detected[target] = 1
        ious[target] = both / (targets.areas[target] + regions.areas[region] - both)
    bins = np.searchsorted(LARGEST, targets.areas)
    return SizeCounts(*(np.bincount(bins, weights, len(BINS))
                        for weights in (np.ones(len(bins)), detected, ious)))
