"""Hierarchical IoU: are the targets found, and how well are the found ones drawn?

hIoU = localisation IoU (over targets and regions) × segmentation IoU (mean over matched pairs), and
an account of what is missing in either, by Pang et al., Rethinking Evaluation of Infrared Small
Target Detection, NeurIPS 2025, arXiv 2509.16888. The authors' package is `pyirstdmetrics`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from .pd_fa import MAX_DISTANCE, Regions, centroid_distances
from .pixel import ratio

MIN_OVERLAP = 0.5


class HiouCounts(NamedTuple):
    """Matched pairs, and why the other targets and regions have none; sums over the pairs."""

    matched: int
    s2m: int  # targets whose only fitting regions went to other targets (single to multiple)
    m2s: int  # regions whose only fitting targets went to other regions (multiple to single)
    interference: int  # regions that fit no target
    perception: int  # targets that no region fits
    iou: float  # sums of shares of the union of a pair: in both,
    pixel_merging: float  # of the region on other targets,
    pixel_interference: float  # of the region on background,
    pixel_perception: float  # of the target alone
    phantoms: int  # regions and targets that the package counts where there are none


def overlaps(targets: Regions, regions: Regions) -> np.ndarray:
    """Pixels that a target and a region have in common, targets × regions."""
    shape = len(targets.areas) + 1, len(regions.areas) + 1
    both = (targets.labels > 0) & (regions.labels > 0)
    pairs = targets.labels[both] * shape[1] + regions.labels[both]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)[1:, 1:]


def match_by_overlap(distances: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """Matches by overlap first, then by distance (the paper's OPDC).

    The nearest assignment is kept where pairs overlap by half; what is left over is assigned anew
    and kept where centroids lie less than `MAX_DISTANCE` pixels apart.

    Args:
        distances: targets × regions, in pixels.
        ious: targets × regions.

    Returns:
        targets × regions, True for a pair.
    """
    matched = np.zeros(distances.shape, dtype=bool)
    matched[linear_sum_assignment(distances)] = True
    matched &= ious >= MIN_OVERLAP
    targets, regions = (np.flatnonzero(~matched.any(axis=axis)) for axis in (1, 0))
    rows, columns = linear_sum_assignment(distances[np.ix_(targets, regions)])
    rows, columns = targets[rows], regions[columns]
    near = distances[rows, columns] < MAX_DISTANCE
    matched[rows[near], columns[near]] = True
    return matched


def hiou_counts(regions: Regions, targets: Regions) -> HiouCounts:
    """Counts of one image."""
    common = overlaps(targets, regions)
    unions = targets.areas[:, None] + regions.areas[None] - common
    distances, ious = centroid_distances(targets, regions), common / unions
    fits = (ious >= MIN_OVERLAP) | (distances < MAX_DISTANCE)
    pairs = match_by_overlap(distances, ious)
    t, r = np.nonzero(pairs)
    union, inside, on_targets = unions[t, r], common[t, r], common.sum(axis=0)[r]
    return HiouCounts(
        matched=len(t),
        s2m=int((fits.any(axis=1) & ~pairs.any(axis=1)).sum()),
        m2s=int((fits.any(axis=0) & ~pairs.any(axis=0)).sum()),
        interference=int((~fits.any(axis=0)).sum()),
        perception=int((~fits.any(axis=1)).sum()),
        iou=float((inside / union).sum()),
        pixel_merging=float(((on_targets - inside) / union).sum()),
        pixel_interference=float(((regions.areas[r] - on_targets) / union).sum()),
        pixel_perception=float(((targets.areas[t] - inside) / union).sum()),
        phantoms=(len(regions.areas) == 0) + (len(targets.areas) == 0),
    )


def hiou(counts: HiouCounts, phantoms: bool = False) -> float:
    """hIoU; with `phantoms` as `pyirstdmetrics` 1.0.2 computes it.

    The package counts one false region more for each image in which nothing is detected, and one
    missed target more for each image that has none.
    """
    objects = sum(counts[:5]) + (counts.phantoms if phantoms else 0)
    return ratio(counts.matched, objects) * ratio(counts.iou, counts.matched)


def error_analysis(counts: HiouCounts) -> dict[str, dict[str, float]]:
    """The two factors of hIoU and what either lacks to 1; the parts of each sum to 1.

    "localisation" is over matched pairs, missed targets and false regions, "segmentation" the mean
    over matched pairs; all 0 where there are none. The names are those of `HiouCounts`.
    """
    objects = sum(counts[:5])
    return {
        "localisation": {
            "IoU": ratio(counts.matched, objects),
            "s2m": ratio(counts.s2m, objects),
            "m2s": ratio(counts.m2s, objects),
            "interference": ratio(counts.interference, objects),
            "perception": ratio(counts.perception, objects),
        },
        "segmentation": {
            "IoU": ratio(counts.iou, counts.matched),
            "merging": ratio(counts.pixel_merging, counts.matched),
            "interference": ratio(counts.pixel_interference, counts.matched),
            "perception": ratio(counts.pixel_perception, counts.matched),
        },
    }
