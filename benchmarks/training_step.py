"""Seconds of a training step, ours and with LLSKM in the official three convolutions.

    python -m benchmarks.training_step --model_name L2SKNet_UNet

Both in one process, in turn (A B A B …) after a warm-up, on random images; everything but LLSKM is
the same in both. Prints the medians and their ratio for each network.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.measuring import NO_DATASET, seconds_of
from model import build_model, soft_iou_loss
from utils import cli, runtime
from utils.optim import Adam

WARM_UP = 2  # steps of each that are not counted


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each network."""
    parser = cli.make_parser(__doc__, without_effect=NO_DATASET)
    cli.add_batch_size(parser)
    parser.add_argument("--size", type=cli.positive(int), default=256, help="default 256")
    parser.add_argument("--steps", type=cli.positive(int), default=5, help="timed; default 5")
    args = parser.parse_args(argv)
    print(runtime.start(args.device, args.precision).describe())
    print(f"batch {args.batch_size}, {args.size}x{args.size}, medians of {args.steps} steps")
    print(f"{'model':<16} {'ours':>8} {'official':>9} {'official/ours':>14}")
    for name in args.model_names:
        ours, official = measure(name, args.batch_size, args.size, args.steps)
        print(f"{name:<16} {ours:>6.2f} s {official:>7.2f} s {official / ours:>14.2f}", flush=True)


def measure(name: str, batch_size: int, size: int, steps: int) -> tuple[float, float]:
    """Median seconds of a step: ours, and in the official formulation."""
    from alignment.official import use_official_formulation  # Jittor starts with it

    jt = runtime.jt
    rng = np.random.default_rng(0)
    x = jt.array(rng.random((batch_size, 1, size, size), np.float32))
    mask = jt.array((rng.random((batch_size, 1, size, size)) > 0.999).astype(np.float32))
    nets = build_model(name), use_official_formulation(build_model(name))

    def take_step(net, optimizer):
        optimizer.step(soft_iou_loss(net(x), mask))
        jt.sync_all(True)

    contestants = [functools.partial(take_step, net, Adam(net.parameters())) for net in nets]
    turns = [list(map(seconds_of, contestants)) for _ in range(WARM_UP + steps)]
    return tuple(map(statistics.median, zip(*turns[WARM_UP:])))


if __name__ == "__main__":
    cli.run(main)
