"""Prints the cost of the networks: parameters, latency and memory.

    python -m benchmarks.cost                       one image of 256x256 on the current device
    python -m benchmarks.cost --size 2160 3840      height and width

Parameters: the trainable ones, which all take part in the output. Latency: from an image in NumPy
to its probabilities in NumPy, with the fast form of the network; median and quartiles. Memory: by
how much one image raises the peak of the process (CPU).
"""

from __future__ import annotations

import multiprocessing
import sys
from argparse import Namespace
from collections.abc import Sequence

import numpy as np

from benchmarks.measuring import NO_DATASET, most_resident_bytes, resident_bytes, seconds_of
from model import build_model, fast_form
from utils import cli, runtime
from utils.report.tables import print_head, print_row

COLUMNS = ("model", "parameters", "latency", "quartiles", "memory")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, each row from a process of its own."""
    parser = cli.make_parser(__doc__, without_effect=NO_DATASET)
    parser.add_argument("--size", type=cli.positive(int), nargs="+", default=[256],
                        metavar="PIXELS",
                        help="side of a square image, or height and width; default 256")
    parser.add_argument("--runs", type=cli.positive(int), default=20, metavar="N",
                        help="number of timed predictions; default 20")
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error("--size: give one side, or height and width")
    height, width = args.size[0], args.size[-1]
    # Each network in its own process: the peak memory of a process never falls.
    fork = multiprocessing.get_context("fork")
    for index, name in enumerate(args.model_names):
        process = fork.Process(
            target=_child, args=(name, height, width, args, index == 0))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def _child(*arguments):
    cli.run(lambda: print_costs(*arguments))


def print_costs(name: str, height: int, width: int, args: Namespace, first: bool) -> None:
    """Measures a network and prints its row of the table, with the heading if it is the first."""
    run = runtime.start(args.device, args.precision)
    if first:
        print(f"{run.describe()}\n1x1x{height}x{width}, {args.runs} runs\n")
        print_head(*COLUMNS)
    net = build_model(name)
    parameters = sum(p.numel() for p in net.parameters() if not p.is_stop_grad())
    net.eval()
    dtype = "bfloat16" if args.precision == runtime.BF16 else "float32"
    memory, seconds = measure(fast_form(net, dtype), height, width, args.runs)
    low, middle, high = (1000 * s for s in np.percentile(seconds, (25, 50, 75)))
    peak = "-" if memory is None or run.device == "cuda" else f"{memory / 1e6:.0f} MB"
    print_row(name, f"{parameters:,}", f"{middle:.1f} ms", f"{low:.1f}-{high:.1f}", peak)


def measure(
    net: runtime.jt.Module, height: int, width: int, runs: int
) -> tuple[int | None, list[float]]:
    """The rise of the process's peak memory in bytes (None: unknown), and seconds of each run."""
    from utils.predict.maps import predict

    jt = runtime.jt
    predict(net, np.zeros((1, 1, 64, 64), np.float32))  # Jittor compiles
    x = np.random.default_rng(0).random((1, 1, height, width), np.float32)
    jt.gc()
    before = resident_bytes()
    predict(net, x)
    peak = most_resident_bytes()
    memory = None if before is None or peak is None else peak - before
    return memory, [seconds_of(lambda: predict(net, x)) for _ in range(runs)]


if __name__ == "__main__":
    cli.run(main)
