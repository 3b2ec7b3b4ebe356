"""What several ranks gain: images a second, what they exchange, and on paper what GPUs would do.

    python -m benchmarks.many_processes --model_name L2SKNet_UNet

Training steps on random images, on the CPU, by one process of two threads, by one of one thread,
and by two ranks of one thread each, on a batch of the same size; medians. What is exchanged is
counted. The second table is arithmetic, not a measurement: its assumptions are the constants below,
and flags.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.measuring import NO_DATASET, seconds_of
from model import build_model, soft_iou_loss
from utils import cli, runtime
from utils.errors import UserError
from utils.optim import Adam
from utils.report.tables import print_head, print_row
from utils.runtime import ranks

WARM_UP = 1  # steps that are not counted, after that in which exchanges are
SIDES = ((1, 2), (1, 1), (2, 1))  # processes and threads of each

# GPUs on one host, hosts of eight joined by 100 Gb/s, hosts joined by 10 Gb/s: the time of an
# exchange of next to nothing, and bytes a second that a large one moves.
NETWORKS = {"one host": (20e-6, 20e9), "100 Gb/s": (40e-6, 10e9), "10 Gb/s": (80e-6, 1e9)}
GPUS = {"one host": (2, 4, 8), "100 Gb/s": (16, 32, 64), "10 Gb/s": (16, 32, 64)}


class Measured(NamedTuple):
    """Of a training step; `bytes` are what each rank gives into its exchanges."""

    seconds: float
    exchanges: int
    bytes: int


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"],
                             without_effect=(*NO_DATASET, "device"))
    cli.add_batch_size(parser)
    parser.add_argument("--size", type=cli.positive(int), default=256, help="default 256")
    parser.add_argument("--steps", type=cli.positive(int), default=5, help="timed; default 5")
    parser.add_argument("--gpu_ms", type=cli.positive(float), default=10,
                        help="on paper: milliseconds of a GPU for one image; default 10")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side:
        print(json.dumps(side(args.model_names[0], args.batch_size, args.size, args.steps)))
        return
    if not shutil.which("mpirun"):
        raise UserError("no mpirun here: apt-get install openmpi-bin libopenmpi-dev")
    print(f"batch {args.batch_size}, {args.size}x{args.size}, medians of {args.steps} steps\n")
    print_head("model", "processes x threads", "a step", "images/s", "exchanges", "bytes")
    measured = {}
    for name in args.model_names:
        for processes, threads in SIDES:
            found = run_side(processes, threads, name, args)
            measured[name] = found
            print_row(name, f"{processes} x {threads}", f"{found.seconds:.2f} s",
                      f"{args.batch_size / found.seconds:.2f}", str(found.exchanges),
                      f"{found.bytes:,}")
    print(f"\nOn paper, {args.gpu_ms:g} ms a GPU and image:\n")
    print_head("model", "GPUs", "joined by", "batch 8 in all", "batch 8 on each")
    for name, found in measured.items():
        for network, numbers in GPUS.items():
            for gpus in numbers:
                gains = [f"{gain(found, gpus, network, images, args.gpu_ms / 1000):.1f} times"
                         for images in (8, 8 * gpus)]
                print_row(name, str(gpus), network, *gains)


def gain(found: Measured, gpus: int, network: str, images: int, seconds: float) -> float:
    """How many times as many images as one GPU, which nothing but its time for each holds up.

    A step lasts as long as that of the rank with the most images and all its exchanges, which
    nothing overlaps. Each moves about twice its bytes through the slowest link.
    """
    latency, speed = NETWORKS[network]
    exchanging = found.exchanges * latency + 2 * found.bytes * (gpus - 1) / gpus / speed
    return images * seconds / (-(-images // gpus) * seconds + exchanging)


def run_side(processes: int, threads: int, name: str, args: argparse.Namespace) -> Measured:
    """Measures in new processes.

    Raises:
        UserError: they have failed.
    """
    command = [sys.executable, "-m", "benchmarks.many_processes", "--side", "--model_name", name,
               "--batch_size", str(args.batch_size), "--size", str(args.size), "--steps",
               str(args.steps)]
    if processes > 1:
        command = ["mpirun", "-np", str(processes), *command]
    run = subprocess.run(command, cwd=cli.ROOT, text=True, stdout=subprocess.PIPE,
                         env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if run.returncode:
        raise UserError(f"{' '.join(command[:6])} ... has failed, see above")
    return Measured(*json.loads(run.stdout.splitlines()[-1]))


def side(name: str, batch_size: int, size: int, steps: int) -> Measured:
    """One process, or one rank of several."""
    runtime.start("cpu")
    rng = np.random.default_rng(0)
    own = ranks.part(batch_size)
    x = rng.random((batch_size, 1, size, size), np.float32)[own]
    mask = (rng.random((batch_size, 1, size, size)) > 0.999).astype(np.float32)[own]
    net = build_model(name)
    optimizer = Adam(net.parameters())
    given, plain = [], ranks.all_sum

    def counting(x, *after):
        given.append(x.numel() * np.dtype(str(x.dtype)).itemsize)
        return plain(x, *after)

    def take_step():
        with ranks.sharing(batch_size):
            optimizer.step(soft_iou_loss(net(runtime.jt.array(x)), runtime.jt.array(mask)))
        runtime.jt.sync_all(True)

    ranks.all_sum = counting
    take_step()
    ranks.all_sum = plain
    seconds = [seconds_of(take_step) for _ in range(WARM_UP + steps)][WARM_UP:]
    return Measured(statistics.median(seconds), len(given), sum(given))


if __name__ == "__main__":
    cli.run(main, many=True)
