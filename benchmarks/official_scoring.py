"""The metrics of the official evaluation code, computed one image after another as it does.

A plain, fair form to compare the speed of `evaluation/` with, and equal to it (tests). It keeps
what the official code does (skimage's regions, one pass for each threshold of the ROC) and leaves
out what only costs there: each map is divided and labelled once, sums are NumPy's.
"""

from __future__ import annotations

import numpy as np
from skimage.measure import label, regionprops

THRESHOLDS = np.linspace(0, 1, 201)


class OfficialScores:
    """mIoU, pixAcc, precision, recall, fscore, Pd, Fa and the AUC of a test set (comparable ones).

    Args:
        roc: False leaves the ROC out, which the official training does not compute.
    """

    def __init__(self, roc: bool = True):
        self.absolute, self.relative = np.zeros(3), np.zeros(3)  # tp, fp, fn
        self.targets = self.detected = self.false_pixels = self.pixels = 0
        self.roc = roc
        self.hits, self.false = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
        self.background = 0

    def update(self, pred: np.ndarray, mask: np.ndarray) -> None:
        """Adds an image: H×W float32 probabilities, and an H×W mask of 0 and 1."""
        target = mask > 0
        relative = pred / pred.max()
        self.absolute += _pixel_counts(pred > 0.5, target)
        self.relative += _pixel_counts(relative > 0.5, target)
        labels = label(target, connectivity=2)
        self._match(regionprops(labels), regionprops(label(relative > 0.5, connectivity=2)))
        self.pixels += mask.size
        if self.roc:
            self.background += (~target).sum()
            for i, threshold in enumerate(THRESHOLDS):
                reached = relative >= np.float32(threshold)
                self.hits[i] += len(np.unique(labels[reached & target]))
                self.false[i] += (reached & ~target).sum()

    def _match(self, targets, regions):
        """Each target takes the first free region whose centroid is less than 3 pixels away."""
        areas = [region.area for region in regions]
        matched_areas = set()
        for target in targets:
            for index, region in enumerate(regions):
                if np.linalg.norm(np.subtract(region.centroid, target.centroid)) < 3:
                    matched_areas.add(region.area)
                    del regions[index]
                    self.detected += 1
                    break
        self.targets += len(targets)
        self.false_pixels += sum(area for area in areas if area not in matched_areas)

    def compute(self) -> dict[str, float]:
        """All scores, under the names of `evaluation.Evaluator.compute`."""
        tp, fp, fn = self.absolute
        scores = {"mIoU": tp / (tp + fp + fn), "pixAcc": tp / (tp + fn)}
        tp, fp, fn = self.relative
        scores.update(precision=tp / (tp + fp), recall=tp / (tp + fn), fscore=2 * tp / (
            2 * tp + fp + fn), Pd=self.detected / self.targets, Fa=self.false_pixels / self.pixels)
        if self.roc:
            fpr, tpr = self.false / self.background, self.hits / self.targets
            scores["AUC"] = np.sum((fpr[:-1] - fpr[1:]) * (tpr[:-1] + tpr[1:])) / 2
        return scores


def _pixel_counts(detected, target):
    return (detected & target).sum(), (detected & ~target).sum(), (~detected & target).sum()
