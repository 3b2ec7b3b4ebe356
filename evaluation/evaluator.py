"""All scores of a test set, gathered image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import hiou, operating, pd_fa, pixel, roc, sizes

THRESHOLD = 0.5  # the default, with which published scores are computed


@dataclass(frozen=True)
class ImageCounts:
    """What one image adds. *Relative*: the prediction divided by its own maximum first."""

    absolute: pixel.PixelCounts
    relative: pixel.PixelCounts
    comparable: pd_fa.RegionCounts
    strict: pd_fa.RegionCounts
    roc: roc.RocCounts
    strict_roc: roc.RocCounts
    hiou: hiou.HiouCounts
    sweep: operating.SweepCounts
    sizes: sizes.SizeCounts

    @property
    def iou(self) -> float:
        """IoU of this image; 1 where there is no target and nothing is detected."""
        return pixel.iou(self.absolute, empty=1.0)


class Evaluator:
    """Scores predictions against masks in two sets of definitions.

    *Comparable* scores equal those of the official evaluation code of L2SKNet (Wu et al., TGRS
    2024, doi 10.1109/TGRS.2024.3521947) and go beside its numbers. *Strict* scores put
    right what is unsound there. At the default threshold of 0.5:

    - mIoU: IoU of the target class over all pixels of the set, prediction > threshold.
      pixAcc: the recall of target pixels there.
    - precision, recall, fscore: over all pixels; comparable divides each prediction by its own
      maximum first, strict does not.
    - Pd: detected targets / targets. Fa: pixels of false regions / all pixels. Comparable divides
      by the maximum, matches in label order, and forgives a false region that has the area of a
      matched one; strict does none of the three (see `pd_fa`).
    - nIoU: the mean of each image's IoU. An image without target scores 1 if nothing is detected
      in it, else 0.
    - hIoU: hierarchical IoU at the threshold (see `hiou`); the comparable one is that of the
      authors' package.
    - AUC: of `roc()`, comparable after dividing by the maximum, strict without.

    An all-black prediction detects nothing. A score that is over nothing (Pd without any target)
    is 0, never NaN.

    Args:
        threshold: in [0, 1); a pixel is detected above it.
        grid: the rising thresholds of `sweep` and `threshold_for`; none by default, since regions
            are found anew at each of them.
    """

    def __init__(self, threshold: float = THRESHOLD, grid: Sequence[float] = ()):
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must lie in [0, 1), not {threshold}")
        self.threshold, self.grid = threshold, tuple(grid)
        self.images: list[ImageCounts] = []

    def update(self, pred: np.ndarray, mask: np.ndarray) -> ImageCounts:
        """Adds one image.

        Args:
            pred: H×W probabilities in [0, 1].
            mask: H×W; bool, 0/1, 0/255 (0/65535) or grey. Grey is a target above half of full
                scale, which is 1, 255 or 65535, the least of them not exceeded by the mask.

        Returns:
            The counts of this image, which `images` keeps as well.

        Raises:
            ValueError: the shapes differ or are not H×W, or a value is not finite or out of range.
        """
        pred = _checked_prediction(pred)
        target = binary_mask(mask)
        if pred.shape != target.shape:
            raise ValueError(
                f"prediction is {_size(pred)} but its mask is {_size(target)} (height x width)"
            )

        peak = pred.max()
        normalised = pred / peak if peak > 0 else pred
        absolute, relative = pred > self.threshold, normalised > self.threshold
        targets, regions = pd_fa.find_regions(target), pd_fa.find_regions(absolute)
        same = np.array_equal(absolute, relative)  # as a rule: most maxima are close to 1
        relative_regions = regions if same else pd_fa.find_regions(relative)
        pairs = pd_fa.match_optimally(pd_fa.centroid_distances(targets, regions))
        counts = ImageCounts(
            absolute=pixel.pixel_counts(absolute, target),
            relative=pixel.pixel_counts(relative, target),
            comparable=pd_fa.comparable_counts(relative_regions, targets),
            strict=pd_fa.counts_of_pairs(pairs, regions, targets),
            roc=roc.roc_counts(normalised, targets),
            strict_roc=roc.roc_counts(pred, targets),
            hiou=hiou.hiou_counts(regions, targets),
            sweep=operating.sweep_counts(pred, targets, self.grid),
            sizes=sizes.size_counts(pairs, regions, targets),
        )
        self.images.append(counts)
        return counts

    def counts(self) -> dict[str, int]:
        """Over how much the scores are: images, images without target, targets, pixels."""
        return {
            "images": len(self.images),
            "images_without_target": sum(not image.strict.targets for image in self.images),
            "targets": sum(image.strict.targets for image in self.images),
            "pixels": sum(sum(image.absolute) for image in self.images),
        }

    def compute(self) -> dict:
        """All scores, comparable ones at the top and the strict ones under "strict".

        Raises:
            ValueError: no image has been added.
        """
        absolute, hiou_counts = self._total("absolute"), self._total("hiou")
        pixels = sum(absolute)
        n_iou = float(np.mean([image.iou for image in self.images]))
        return {
            "mIoU": pixel.iou(absolute),
            # The official code divides float32 tensors here; to be equal to it, so do we.
            "pixAcc": pixel.ratio(np.float32(absolute.tp), np.float32(absolute.tp + absolute.fn)),
            **_pixel_scores(self._total("relative")),
            **_region_scores(self._total("comparable"), pixels),
            "AUC": roc.auc(*self.roc()),
            "nIoU": n_iou,
            "hIoU": hiou.hiou(hiou_counts, phantoms=True),
            "strict": {
                "mIoU": pixel.iou(absolute),
                **_pixel_scores(absolute),
                **_region_scores(self._total("strict"), pixels),
                "AUC": roc.auc(*self.roc(strict=True)),
                "nIoU": n_iou,
                "hIoU": hiou.hiou(hiou_counts),
            },
        }

    def error_analysis(self) -> dict[str, dict[str, float]]:
        """What the two factors of the strict hIoU consist of (`hiou.error_analysis`)."""
        return hiou.error_analysis(self._total("hiou"))

    def roc(self, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """fpr (background pixels) and tpr (targets): 201 points each, threshold 0 first.

        Args:
            strict: thresholds apply to the predictions themselves; if not, to each divided by its
                own maximum.

        Raises:
            ValueError: no image has been added.
        """
        return roc.roc_curve(self._roc_counts(strict))

    def precision_recall(self, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of pixels; arguments, points and errors as for `roc`."""
        return roc.precision_recall_curve(self._roc_counts(strict))

    def by_size(self) -> dict[str, dict[str, float]]:
        """By the area of targets in pixels ("1-9" for one): targets, and strict Pd and IoU.

        IoU is the mean over the targets, that of a missed one is 0. Of a size that no target has
        both are 0.

        Raises:
            ValueError: no image has been added.
        """
        return {name: {"targets": int(count), "Pd": pixel.ratio(detected, count),
                       "IoU": pixel.ratio(iou, count)}
                for name, count, detected, iou in zip(sizes.BINS, *self._total("sizes"))}

    def sweep(self) -> operating.Sweep:
        """Strict Pd, Fa and mIoU at each threshold of `grid`.

        Raises:
            ValueError: no image has been added.
        """
        return operating.sweep(self._all("sweep"), self.grid)

    def threshold_for(self, fa: float) -> operating.Threshold:
        """The smallest threshold of `grid` for a wanted strict Fa (`operating.threshold_for`).

        Raises:
            ValueError: no image has been added.
        """
        return operating.threshold_for(self._all("sweep"), self.grid, fa)

    def _roc_counts(self, strict: bool) -> roc.RocCounts:
        return self._total("strict_roc" if strict else "roc")

    def _total(self, kind: str) -> Any:
        """The sums over all images of one field of `ImageCounts`, in the field's own type."""
        counts = self._all(kind)
        return type(counts[0])(*map(sum, zip(*counts)))

    def _all(self, kind: str) -> list:
        if not self.images:
            raise ValueError("nothing to score: no image has been added with update(pred, mask)")
        return [getattr(image, kind) for image in self.images]


def binary_mask(mask: np.ndarray) -> np.ndarray:
    """An H×W boolean map from a mask in any of the encodings that `Evaluator.update` takes.

    Raises:
        ValueError: not H×W, empty, or values that are not finite, lie outside 0 to 65535, or of
            which none is a target though some are above 1.
    """
    mask = np.asarray(mask)
    _check_map(mask, "mask")
    if mask.dtype == bool:
        return mask
    top = mask.max()
    if mask.min() < 0 or top > 65535:
        raise ValueError(f"mask holds values from {mask.min()} to {top}, expected 0 to 65535")
    scale = 1 if top <= 1 else 255 if top <= 255 else 65535
    if 1 < top <= scale / 2:  # numbered targets, for one
        raise ValueError(f"mask holds values up to {top}, expected 0 and 1, 255 or 65535")
    return mask > scale / 2


def _checked_prediction(pred: np.ndarray) -> np.ndarray:
    """The prediction as float32, or float64 where it came as such."""
    pred = np.asarray(pred)
    _check_map(pred, "prediction")
    low, high = pred.min(), pred.max()
    if low < 0 or high > 1:
        raise ValueError(f"prediction holds values from {low} to {high}, expected probabilities")
    return pred if pred.dtype == np.float64 else pred.astype(np.float32, copy=False)


def _check_map(array: np.ndarray, name: str) -> None:
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be height x width, not of shape {array.shape}")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, not {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values")


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def _pixel_scores(counts: pixel.PixelCounts) -> dict[str, float]:
    return {
        "fscore": pixel.fscore(counts),
        "precision": pixel.precision(counts),
        "recall": pixel.recall(counts),
    }


def _region_scores(counts: pd_fa.RegionCounts, pixels: int) -> dict[str, float]:
    return {
        "Pd": pixel.ratio(counts.detected, counts.targets),
        "Fa": pixel.ratio(counts.false_pixels, pixels),
    }
