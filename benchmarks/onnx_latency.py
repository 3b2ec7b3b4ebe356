"""Milliseconds of a prediction, ours and onnxruntime's of the same network as .onnx.

    python -m benchmarks.onnx_latency

One image, and a batch. Both in one process, in turn (A B A B …) after a warm-up, from an image in
NumPy to its probabilities in NumPy, on the CPU, on all cores that the process may use. Before each
call both have slept, for the threads of either spin for a while. Prints the medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.measuring import NO_DATASET, seconds_of
from model import build_model
from utils import cli, runtime
from utils.checkpoint.onnx_graph import INPUT, make_onnx, require_onnx
from utils.predict import predict
from utils.report.tables import print_head, print_row

WARM_UP = 3  # calls of each that are not counted
SLEEP = 0.1  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each network."""
    parser = cli.make_parser(__doc__, without_effect=(*NO_DATASET, "device"))
    cli.add_batch_size(parser)
    parser.add_argument("--size", type=cli.positive(int), default=256, help="default 256")
    parser.add_argument("--runs", type=cli.positive(int), default=15, help="timed; default 15")
    args = parser.parse_args(argv)
    require_onnx("benchmarks.onnx_latency")
    import onnxruntime

    threads = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # ours; before Jittor starts
    print(f"{runtime.start('cpu', args.precision).describe()}\n"
          f"onnxruntime {onnxruntime.__version__}; {threads} threads, {args.size}x{args.size}, "
          f"medians of {args.runs}\n")
    print_head("model", "images", "ours", "onnxruntime")
    for name in args.model_names:
        for batch_size in (1, args.batch_size):
            ours, other = measure(name, batch_size, args.size, args.runs, threads)
            print_row(name, str(batch_size), f"{1000 * ours:.0f} ms", f"{1000 * other:.0f} ms")


def measure(
    name: str, batch_size: int, size: int, runs: int, threads: int
) -> tuple[float, float]:
    """Median seconds of a prediction: ours, and onnxruntime's."""
    import onnxruntime

    net = build_model(name)
    net.eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        make_onnx(net, name, {}).SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((batch_size, 1, size, size), np.float32)

    def rested(call):
        time.sleep(SLEEP)
        return seconds_of(call)

    contestants = (lambda: predict(net, x), lambda: session.run(None, {INPUT: x}))
    turns = [list(map(rested, contestants)) for _ in range(WARM_UP + runs)]
    return tuple(map(statistics.median, zip(*turns[WARM_UP:])))


if __name__ == "__main__":
    cli.run(main)
