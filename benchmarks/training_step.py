"""Seconds of a training step, ours and with LLSKM in the official three convolutions.

    python -m benchmarks.training_step --model_name L2SKNet_UNet

Both in one process, in turn (A B A B …) after a warm-up, on random images; everything but LLSKM is
the same in both. Prints the medians and their ratio for each network.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from model import build_model, soft_iou_loss
from utils import cli, runtime
from utils.optim import Adam


def main(argv=None) -> None:
    parser = cli.make_parser(__doc__)
    cli.add_batch_size(parser)
    parser.add_argument("--size", type=cli.positive(int), default=256, help="default 256")
    parser.add_argument("--steps", type=cli.positive(int), default=5, help="timed; default 5")
    args = parser.parse_args(argv)
    print(runtime.start(args.device, args.precision).describe())
    batch_size = args.batch_size or 8
    print(f"batch {batch_size}, {args.size}x{args.size}, medians of {args.steps} steps")
    print(f"{'model':<16} {'ours':>8} {'official':>9} {'official/ours':>14}")
    for name in args.model_names:
        ours, official = measure(name, batch_size, args.size, args.steps)
        print(f"{name:<16} {ours:>6.2f} s {official:>7.2f} s {official / ours:>14.2f}", flush=True)


def measure(name, batch_size, size, steps):
    """Median seconds of a step: ours, and in the official formulation."""
    from alignment.official import use_official_formulation  # Jittor starts with it

    jt = runtime.jt
    rng = np.random.default_rng(0)
    x = jt.array(rng.random((batch_size, 1, size, size), np.float32))
    mask = jt.array((rng.random((batch_size, 1, size, size)) > 0.999).astype(np.float32))
    nets = build_model(name), use_official_formulation(build_model(name))
    contestants = [(net, Adam(net.parameters())) for net in nets]
    seconds = [[], []]
    for step in range(-2, steps):
        for (net, optimizer), record in zip(contestants, seconds):
            jt.sync_all(True)
            began = time.perf_counter()
            optimizer.step(soft_iou_loss(net(x), mask))
            jt.sync_all(True)
            if step >= 0:
                record.append(time.perf_counter() - began)
    return tuple(map(statistics.median, seconds))


if __name__ == "__main__":
    cli.run(main)
