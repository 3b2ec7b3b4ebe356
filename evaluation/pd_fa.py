"""Target-level counts: which targets are found, and which detected pixels belong to none.

A region is an 8-connected group of pixels. A target is detected when the centroid of a region
lies less than `MAX_DISTANCE` pixels from the target's own; a region detects one target at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.measure import label

MAX_DISTANCE = 3.0


class Regions(NamedTuple):
    """The regions of one map, in label order (row by row, by their first pixel)."""

    labels: np.ndarray  # H×W, 0 is background, regions count from 1
    areas: np.ndarray  # n, pixels
    centroids: np.ndarray  # n×2, row and column


class RegionCounts(NamedTuple):
    """Targets, how many of them are detected, and the pixels held to be false alarms."""

    targets: int
    detected: int
    regions: int
    false_pixels: int


def find_regions(binary: np.ndarray, offset: tuple[int, int] = (0, 0)) -> Regions:
    """Labels the 8-connected regions of an H×W boolean map.

    Args:
        offset: row and column of the map's first pixel, where it is cut out of a larger one:
            centroids are those in the larger map.
    """
    labels, count = label(binary, connectivity=2, return_num=True)
    rows, columns = np.nonzero(binary)
    owner = labels[rows, columns]
    areas = np.bincount(owner, minlength=count + 1)[1:]
    sums = [np.bincount(owner, weights=axis + first, minlength=count + 1)[1:]
            for axis, first in zip((rows, columns), offset)]
    return Regions(labels, areas, np.stack(sums, axis=1) / areas[:, None])


def centroid_distances(targets: Regions, regions: Regions) -> np.ndarray:
    """Distances in pixels between centroids, targets × regions."""
    difference = targets.centroids[:, None] - regions.centroids[None]
    return np.sqrt((difference**2).sum(axis=-1))


def match_in_order(distances: np.ndarray) -> list[tuple[int, int]]:
    """Matches as the official code does: each target in turn takes the first free region.

    Args:
        distances: targets × regions, in pixels; a pair may match only below `MAX_DISTANCE`.

    Returns:
        (target, region) index pairs.
    """
    pairs = []
    taken = np.zeros(distances.shape[1], dtype=bool)
    for target, row in enumerate(distances):
        free = np.flatnonzero((row < MAX_DISTANCE) & ~taken)
        if free.size:
            taken[free[0]] = True
            pairs.append((target, int(free[0])))
    return pairs


def match_optimally(distances: np.ndarray) -> list[tuple[int, int]]:
    """Matches as many targets as can be, and among such matchings takes the nearest.

    Args and result as `match_in_order`.
    """
    # A forbidden pair costs more than any number of allowed ones, so none displaces an allowed one.
    forbidden = MAX_DISTANCE * (min(distances.shape) + 1)
    cost = np.where(distances < MAX_DISTANCE, distances, forbidden)
    targets, regions = linear_sum_assignment(cost)
    allowed = distances[targets, regions] < MAX_DISTANCE
    return [(int(t), int(r)) for t, r in zip(targets[allowed], regions[allowed])]


def comparable_counts(regions: Regions, targets: Regions) -> RegionCounts:
    """Counts by the rules of the official code, unsound ones included, for published numbers.

    A region is a false alarm only if no matched region of the image has the same area: the
    official code takes matched *areas* out of the list of areas, not matched regions.
    """
    pairs = match_in_order(centroid_distances(targets, regions))
    matched_areas = regions.areas[[region for _, region in pairs]]
    false = regions.areas[~np.isin(regions.areas, matched_areas)]
    return RegionCounts(len(targets.areas), len(pairs), len(regions.areas), int(false.sum()))


def strict_counts(regions: Regions, targets: Regions) -> RegionCounts:
    """Counts with one-to-one optimal matching; every unmatched region is a false alarm."""
    return counts_of_pairs(match_optimally(centroid_distances(targets, regions)), regions, targets)


def counts_of_pairs(
    pairs: Sequence[tuple[int, int]], regions: Regions, targets: Regions
) -> RegionCounts:
    """Counts where every region outside the (target, region) pairs is a false alarm."""
    matched = regions.areas[[region for _, region in pairs]]
    false = int(regions.areas.sum() - matched.sum())
    return RegionCounts(len(targets.areas), len(pairs), len(regions.areas), false)
