"""Scores predictions by every definition of the metrics that is in use.

    python -m benchmarks.definitions                      # what test.py has written
    python -m benchmarks.definitions --pred /data/ACM     # predictions of any method, in files

Prints a table: definition, value, who uses it. docs/metrics.md names the repositories and files.
The threshold is always 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from evaluation import THRESHOLD, Evaluator
from evaluation.hiou import match_by_overlap, overlaps
from evaluation.pd_fa import (
    RegionCounts,
    Regions,
    centroid_distances,
    comparable_counts,
    counts_of_pairs,
    find_regions,
    match_in_order,
    strict_counts,
)
from evaluation.pixel import iou, ratio
from utils import cli
from utils.datasets import load_split
from utils.predict.prediction_files import prediction_folders, read_predictions
from utils.report.scores import ModelScores, format_score
from utils.report.tables import markdown_table

HEADINGS = "definition", "value", "used by"


class Counts(NamedTuple):
    """The counts behind Pd = detected / targets and Fa = false_pixels / pixels."""

    detected: int
    targets: int
    false_pixels: int
    pixels: int


def divided_by_maximum(pred: np.ndarray) -> np.ndarray:
    """A map scaled so that its largest value is 1; an all-black map stays black."""
    peak = pred.max()
    return pred / peak if peak > 0 else pred


def from_minimum_to_maximum(pred: np.ndarray) -> np.ndarray:
    """A map scaled to reach from 0 to 1; a map of a single value becomes 0."""
    return divided_by_maximum(pred - pred.min())


def in_order_counts(regions: Regions, targets: Regions) -> RegionCounts:
    """Matches in label order, and every unmatched region is a false alarm."""
    return counts_of_pairs(match_in_order(centroid_distances(targets, regions)), regions, targets)


def overlap_counts(regions: Regions, targets: Regions) -> RegionCounts:
    """Matches by overlap first, then by distance; every unmatched region is a false alarm."""
    common = overlaps(targets, regions)
    ious = common / (targets.areas[:, None] + regions.areas[None] - common)
    pairs = match_by_overlap(centroid_distances(targets, regions), ious)
    return counts_of_pairs(np.argwhere(pairs), regions, targets)


def by_regions(
    count: Callable[[Regions, Regions], RegionCounts],
    normalise: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Callable[[np.ndarray, Regions], Counts]:
    """Makes a definition of Pd and Fa from a rule that matches regions, and a scaling of maps."""

    def counts(pred: np.ndarray, targets: Regions) -> Counts:
        found = count(find_regions(normalise(pred) > THRESHOLD), targets)
        return Counts(found.detected, found.targets, found.false_pixels, pred.size)

    return counts


def by_any_pixel(pred: np.ndarray, targets: Regions) -> Counts:
    """A target is detected if one of its pixels is; every detected background pixel is false.

    Fa is over the background alone. Images without a target are left out.
    """
    if not len(targets.areas):
        return Counts(0, 0, 0, 0)
    detected, background = divided_by_maximum(pred) > THRESHOLD, targets.labels == 0
    hit = np.unique(targets.labels[detected & ~background])
    false = np.count_nonzero(detected & background)
    return Counts(len(hit), len(targets.areas), false, np.count_nonzero(background))


def by_shooting(pred: np.ndarray, targets: Regions) -> Counts:
    """DTUM's shooting rule, as pyirstdmetrics has it.

    A target is detected if a detected pixel lies in the 3×3 pixels around one of its pixels.
    Detected pixels outside the 9×9 pixels around all target pixels are false.
    """
    detected, target = pred > THRESHOLD, targets.labels > 0
    near = ndimage.maximum_filter(detected, 3)
    hit = np.unique(targets.labels[near & target])
    false = np.count_nonzero(detected & ~ndimage.maximum_filter(target, 9))
    return Counts(len(hit), len(targets.areas), false, pred.size)


# Definition of Pd and Fa → the function that counts by it, and who uses it.
PD_FA = {
    "Pd / Fa: centroids within 3 px, in order, equal areas forgiven": (
        by_regions(comparable_counts), "DNANet, BasicIRSTD, SCTransNet, MSHNet"),
    "Pd / Fa: the same, each map divided by its maximum": (
        by_regions(comparable_counts, divided_by_maximum), "L2SKNet; ours, comparable"),
    "Pd / Fa: the same, each map from its minimum to its maximum": (
        by_regions(comparable_counts, from_minimum_to_maximum),
        "FSGPNet, of maps that leave 0..1; no other found"),
    "Pd / Fa: centroids, in order, every unmatched region false": (
        by_regions(in_order_counts), "pyirstdmetrics"),
    "Pd / Fa: centroids, best matching, every unmatched region false": (
        by_regions(strict_counts), "ours, strict"),
    "Pd / Fa: IoU of at least 0.5, else centroids; every unmatched region false": (
        by_regions(overlap_counts), "pyirstdmetrics (OPDC)"),
    "Pd / Fa: any pixel within 1 px of the target; pixels beyond 4 px false": (
        by_shooting, "pyirstdmetrics (shooting rule of DTUM)"),
    "Pd / Fa: any pixel of the target; every pixel beside targets false, divided by maximum": (
        by_any_pixel, "RPCANet"),
}


def table(predictions: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> tuple[str, str]:
    """Scores predictions, H×W in [0, 1] each, against their masks.

    Returns:
        What was scored, and the table.

    Raises:
        ValueError: by `Evaluator.update`.
    """
    evaluator = Evaluator(THRESHOLD)
    totals = {name: np.zeros(len(Counts._fields), dtype=np.int64) for name in PD_FA}
    for pred, mask in zip(predictions, masks):
        pred = pred.astype(np.float32) if pred.dtype.kind != "f" else pred
        evaluator.update(pred, mask)
        targets = find_regions(np.asarray(mask) > 0)
        for name, (count, _) in PD_FA.items():
            totals[name] += count(pred, targets)
    scores = evaluator.compute()
    rows = [
        ("mIoU: one IoU over the pixels of all images", f"{scores['mIoU']:.4f}",
         "L2SKNet, DNANet, BasicIRSTD, SCTransNet, MSHNet, pyirstdmetrics"),
        ("nIoU: the mean of the images' IoU; 1 with neither target nor detection",
         f"{scores['nIoU']:.4f}", "ours"),
        ("nIoU: the same, 0 with neither target nor detection",
         f"{np.mean([iou(image.absolute, empty=0.0) for image in evaluator.images]):.4f}",
         "ACM, SCTransNet, pyirstdmetrics"),
        ("F-score: over all pixels", f"{scores['strict']['fscore']:.4f}",
         "pyirstdmetrics; ours, strict"),
        ("F-score: the same, each map divided by its maximum", f"{scores['fscore']:.4f}",
         "L2SKNet, RPCANet"),
    ]
    for name, (_, users) in PD_FA.items():
        detected, count, false, pixels = map(int, totals[name])
        rows.append((name, f"{ratio(detected, count):.4f} / "
                     f"{format_score('Fa', ratio(false, pixels))}", users))
    rows.append(("hIoU", f"{scores['hIoU']:.4f}", "pyirstdmetrics; ours, comparable"))
    return ModelScores(evaluator).counts(), markdown_table([HEADINGS, *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each dataset and model."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], any_model=True,
                             without_effect=("device", "seed"))
    cli.add_pred(parser)
    cli.add_skip_bad(parser)
    args = parser.parse_args(argv)
    found = prediction_folders(args.output_dir, args.dataset_names, args.model_names,
                               args.default_models, args.pred)
    for dataset_name, folders in found.items():
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           skip_bad=args.skip_bad)
        for model, folder in folders.items():
            maps = read_predictions(split, folder, range(len(split)))
            counts, rows = table(maps, split.masks)
            print(f"{model} with {folder}\n{split.describe()}\n{counts}\n\n{rows}\n", flush=True)


if __name__ == "__main__":
    cli.run(main)
