"""Where stock Jittor, this project and PyTorch compute different things, and how far (Markdown).

    python -m benchmarks.framework_differences

Each row is a quantity that the networks or their training depend on. A number is a distance: the
largest difference from the truth, which NumPy computes in float64 by PyTorch's definition, over
the largest value of the truth. What is no distance is shown as it is. All three work on the same
inputs; PyTorch runs in a process of its own, because its oneDNN and Jittor's clash, and its column
stays empty where it is not installed. docs/differences.md says what follows from the numbers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.differences.behaviour import Dropout, InitialWeights, LoadStateDict, NotANumber
from benchmarks.differences.entry import Entry, Results
from benchmarks.differences.layers import (
    SmallestPool,
    bilinear,
    convolution,
    leaky_relu,
    max_pool,
    nearest,
)
from benchmarks.differences.norms import BatchNorm, BiasBeforeNorm
from benchmarks.differences.sums import BiasGradient, GlobalAverage, Loss
from benchmarks.differences.training import AdamEpsilon, AdamInEvaluation, Schedule, Shuffle
from benchmarks.measuring import NO_DATASET
from benchmarks.table import print_head, print_row
from utils import cli, runtime

DIFFERENCES = [
    BatchNorm("θ, 50 batches of 8×16×1×1", (8, 16, 1, 1), batches=50),
    BatchNorm("8×16×256×256", (8, 16, 256, 256)),
    BatchNorm("8×16×256×256, values 1 ± 0.1", (8, 16, 256, 256), 1.0, 0.1),
    BatchNorm("8×16×16×16, values 10 ± 0.1", (8, 16, 16, 16), 10.0, 0.1),
    BiasBeforeNorm(), GlobalAverage(), BiasGradient(), Loss(), AdamEpsilon(), Schedule(), Shuffle(),
    InitialWeights(), bilinear(32, 64), bilinear(33, 65), bilinear(64, 32), nearest(), max_pool(),
    SmallestPool(), leaky_relu(), convolution(9, 2), Dropout(), AdamInEvaluation(), NotANumber(),
    LoadStateDict(),
]
SIDES = ("stock", "ours", "pytorch")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = cli.make_parser(__doc__, without_effect=(*NO_DATASET, "model_names"))
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="the rows whose difference contains it")
    args = parser.parse_args(argv)
    print(runtime.start(args.device, args.precision).describe())
    chosen = [i for i, entry in enumerate(DIFFERENCES) if args.only in entry.name]
    others = [{}] * len(chosen)
    if importlib.util.find_spec("torch"):
        print(f"PyTorch {importlib.metadata.version('torch')}, on the CPU, in another process")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            others = list(pool.map(run_pytorch, chosen))
    print()
    print_head("difference", "quantity", "stock Jittor", "ours", "PyTorch")
    for index, pytorch in zip(chosen, others):
        entry = DIFFERENCES[index]
        for cells in rows(measure(entry), pytorch):
            print_row(entry.name, *cells)


def run_pytorch(index: int) -> Results:
    """What PyTorch makes of an entry; called in its process."""
    import torch

    return DIFFERENCES[index].pytorch(torch)


def measure(entry: Entry) -> dict[str, Results]:
    """The truth, and what stock Jittor and our code make of an entry, by their names."""
    jt = runtime.jt
    return {"truth": entry.truth(), "stock": entry.stock(jt), "ours": entry.ours(jt)}


def rows(
    results: Mapping[str, Results], pytorch: Results | None = None
) -> Iterator[tuple[str, ...]]:
    """(quantity, stock, ours, PyTorch) as text, for each quantity of the results of `measure`."""
    results = {**results, "pytorch": pytorch or {}}
    for quantity, truth in results["truth"].items():
        yield quantity, *(_cell(results[side].get(quantity), truth) for side in SIDES)


def _cell(result, truth):
    if result is None:
        return ""
    return result if isinstance(result, str) else f"{distance(result, truth):.1e}"


def distance(result: ArrayLike, truth: ArrayLike) -> float:
    """Largest difference over the largest value of the truth (over 1 if that is 0)."""
    truth = np.asarray(truth, np.float64)
    return float(np.abs(np.asarray(result, np.float64) - truth).max() / (np.abs(truth).max() or 1))


if __name__ == "__main__":
    cli.run(main)
