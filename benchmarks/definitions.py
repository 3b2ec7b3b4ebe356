"""The same predictions under every definition of the metrics that is in use.

    python -m benchmarks.definitions                      # the weights that test.py would take
    python -m benchmarks.definitions --pred /data/ACM     # predictions of any method, in files

Predicts the test list once, at its native size (images of another size than 256x256 a second time,
resized to it), and prints a table: definition, value, who uses it. docs/metrics.md says in which
files that stands. The threshold is 0.5 throughout. The last three rows are of the log of the
training run that the weights come from.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from benchmarks.table import print_head, print_row
from evaluation import Evaluator
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
from evaluation.pixel import ratio
from utils import cli, runtime
from utils.checkpoint.pretrained import choose_weights
from utils.checkpoint.weights import read_meta
from utils.datasets import ImageList, load_split
from utils.errors import UserError
from utils.paths import Paths
from utils.predict import load_model
from utils.predict.maps import predict_images
from utils.predict.prediction_files import prediction_folders, read_predictions
from utils.report.tables import describe_counts, format_score
from utils.training.logs import EpochRecord, best_epochs, read_log

THRESHOLD = 0.5
SIDE = 256  # to which some resize
UNKNOWN = "–"


class Counts(NamedTuple):
    """What Pd (detected / targets) and Fa (false pixels / pixels) are made of."""

    detected: int
    targets: int
    false_pixels: int
    pixels: int


def divided_by_maximum(pred: np.ndarray) -> np.ndarray:
    """A map whose largest value is 1; one that is all 0 stays so."""
    peak = pred.max()
    return pred / peak if peak > 0 else pred


def from_minimum_to_maximum(pred: np.ndarray) -> np.ndarray:
    """A map whose values reach from 0 to 1; one of a single value becomes 0."""
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
    """A definition of Pd and Fa by regions: what is done with a map, and how they are counted."""

    def counts(pred: np.ndarray, targets: Regions) -> Counts:
        found = count(find_regions(normalise(pred) > THRESHOLD), targets)
        return Counts(found.detected, found.targets, found.false_pixels, pred.size)

    return counts


def by_any_pixel(pred: np.ndarray, targets: Regions) -> Counts:
    """A target is detected if one of its pixels is, and all detected background is false.

    Over the background alone, and without the images that have no target.
    """
    if not len(targets.areas):
        return Counts(0, 0, 0, 0)
    detected, background = divided_by_maximum(pred) > THRESHOLD, targets.labels == 0
    hit = np.unique(targets.labels[detected & ~background])
    false = np.count_nonzero(detected & background)
    return Counts(len(hit), len(targets.areas), false, np.count_nonzero(background))


def by_shooting(pred: np.ndarray, targets: Regions) -> Counts:
    """DTUM's shooting rule, as pyirstdmetrics has it.

    A target is detected if a detected pixel lies in the 3×3 pixels around one of its own. False
    are the detected pixels outside the 9×9 pixels around all of them.
    """
    detected, target = pred > THRESHOLD, targets.labels > 0
    near = ndimage.maximum_filter(detected, 3)
    hit = np.unique(targets.labels[near & target])
    false = np.count_nonzero(detected & ~ndimage.maximum_filter(target, 9))
    return Counts(len(hit), len(targets.areas), false, pred.size)


FIELD = "Pd / Fa: centroids within 3 px, in order, equal areas forgiven"

# What Pd and Fa are → how they are counted, and who uses it.
PD_FA = {
    FIELD: (by_regions(comparable_counts), "DNANet, BasicIRSTD, SCTransNet, MSHNet"),
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

# Every row, in order → who uses it.
USERS = {
    "mIoU: one IoU over the pixels of all images":
        "L2SKNet, DNANet, BasicIRSTD, SCTransNet, MSHNet, pyirstdmetrics",
    "nIoU: the mean of the images' IoU": "ACM, SCTransNet, pyirstdmetrics",
    "F-score: over all pixels": "pyirstdmetrics; ours, strict",
    "F-score: the same, each map divided by its maximum": "L2SKNet, RPCANet",
    **{name: users for name, (_, users) in PD_FA.items()},
    "hIoU": "pyirstdmetrics; ours, comparable",
    "mIoU / Pd / Fa of DNANet: images and masks resized to 256×256": "DNANet, MSHNet",
    "mIoU / Pd / Fa of L2SKNet: the epoch of the best mIoU": "SCTransNet, MSHNet; our best.npz",
    "mIoU / Pd / Fa of L2SKNet: each from its own best epoch": "L2SKNet (log), ACM",
    "mIoU / Pd / Fa of L2SKNet: the last epoch": "BasicIRSTD; DNANet, as its code stands",
}


@dataclasses.dataclass
class Scored:
    """Predictions of a test list, scored: the Evaluator, and `PD_FA` by name."""

    evaluator: Evaluator
    counts: dict[str, Counts]

    def pd_fa(self, name: str) -> str:
        """Pd and Fa by one of the definitions."""
        counts = self.counts[name]
        return _cells(Pd=ratio(counts.detected, counts.targets),
                      Fa=ratio(counts.false_pixels, counts.pixels))


def score(predictions: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> Scored:
    """Scores predictions, H×W in [0, 1] each, against their masks.

    Raises:
        ValueError: as `Evaluator.update`.
    """
    evaluator = Evaluator(THRESHOLD)
    totals = {name: np.zeros(len(Counts._fields), dtype=np.int64) for name in PD_FA}
    for pred, mask in zip(predictions, masks):
        evaluator.update(pred, mask)
        targets = find_regions(np.asarray(mask) > 0)
        for name, (count, _) in PD_FA.items():
            totals[name] += count(pred, targets)
    return Scored(evaluator, {name: Counts(*map(int, sums)) for name, sums in totals.items()})


def values(
    native: Scored, resized: Scored | None = None, records: Sequence[EpochRecord] = ()
) -> list[str]:
    """The values of all rows, in the order of `USERS`.

    Args:
        native: at the images' own size.
        resized: at 256×256; `native` itself where that is their size; None: not known.
        records: the epochs of the training run; empty: not known.
    """
    scores = native.evaluator.compute()
    small = UNKNOWN
    if resized:
        small = f"{_cells(mIoU=resized.evaluator.compute()['mIoU'])} / {resized.pd_fa(FIELD)}"
        small += " (their own size)" if resized is native else ""
    return [
        *(_cells(**{key: value}) for key, value in (
            ("mIoU", scores["mIoU"]), ("nIoU", scores["nIoU"]),
            ("fscore", scores["strict"]["fscore"]), ("fscore", scores["fscore"]))),
        *map(native.pd_fa, PD_FA),
        _cells(hIoU=scores["hIoU"]),
        small,
        *_epochs(records),
    ]


def _epochs(records: Sequence[EpochRecord]) -> list[str]:
    """The last three rows."""
    evaluated = [record for record in records if record.evaluated]
    if not evaluated:
        return [UNKNOWN] * 3
    best, last = best_epochs(evaluated), evaluated[-1]
    names = ("mIoU", "Pd", "Fa")
    choices = ([best["mIoU"]] * 3, [best[name] for name in names], [last] * 3)
    rows = []
    for chosen in choices:
        cells = {name: getattr(record, name) for name, record in zip(names, chosen)}
        numbers = list(dict.fromkeys(record.epoch for record in chosen))
        rows.append(f"{_cells(**cells)} (epoch {', '.join(map(str, numbers))})")
    return rows


def _cells(**scores: float) -> str:
    return " / ".join(format_score(key, value) for key, value in scores.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each dataset and model."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], any_model=True,
                             without_effect=("seed",))
    cli.add_batch_size(parser)
    cli.add_pred(parser, default="predict")
    cli.add_skip_bad(parser)
    args = parser.parse_args(argv)
    models = args.model_names or args.default_models
    if args.pred:
        found = prediction_folders(args.output_dir, args.dataset_names, args.model_names,
                                   args.default_models, args.pred)
    else:
        found = {name: dict.fromkeys(models) for name in args.dataset_names}
        print(runtime.start(args.device, args.precision).describe())
    for dataset_name, folders in found.items():
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           skip_bad=args.skip_bad)
        for model, folder in folders.items():
            print_table(model, split, folder, args)


def print_table(model: str, split: ImageList, folder: Path | None, args: Namespace) -> None:
    """Prints the table of one model.

    Args:
        folder: of predictions; None: they are made.
        args: --output_dir and --batch_size.

    Raises:
        UserError: there are no weights, or predictions that cannot be used.
    """
    images, masks = split.resized(SIDE)
    own_size = all(image.shape == (SIDE, SIDE) for image in split.images)
    records: Sequence[EpochRecord] = ()
    resized = None
    if folder:
        source = folder
        maps = read_predictions(split, folder, range(len(split)))
        try:
            native = score(maps, split.masks)
        except ValueError as error:
            raise UserError(f"{folder}: {error}; save probabilities, 0 to 1") from error
    else:
        source, trained = choose_weights(args.output_dir, split.dataset, model)
        records = run_records(source, trained, split.dataset, model, args.output_dir)
        net = load_model(model, source)
        native = score(predict_all(net, split, args.batch_size), split.masks)
        if not own_size:
            small = dataclasses.replace(split, images=images, masks=masks)
            resized = score(predict_all(net, small, args.batch_size), masks)
    print(f"{model} with {source}\n{split.describe()}\n{describe_counts(native.evaluator)}\n")
    print_head("definition", "value", "used by")
    for (name, users), value in zip(USERS.items(), values(
            native, native if own_size else resized, records)):
        print_row(name, value, users)
    print(flush=True)


def run_records(
    weights: Path, trained: bool, dataset_name: str, model: str, output_dir: str | Path
) -> list[EpochRecord]:
    """The epochs of the run that weights of `choose_weights` come from; none without its log."""
    started = read_meta(weights).get("started", "")
    log = Paths(output_dir).log(dataset_name, model, started)
    if not trained:
        log = Paths(cli.ROOT).loss_curves() / log.name
    return read_log(log) if log.is_file() else []


def predict_all(net: runtime.jt.Module, split: ImageList, batch_size: int) -> list[np.ndarray]:
    """The probability maps of a split, H×W each, in its order."""
    maps = dict(predict_images(net, split, batch_size, "predicting"))
    return [maps[index] for index in range(len(split))]


if __name__ == "__main__":
    cli.run(main)
