"""Trains the four models in turn. Skips finished runs and resumes stopped runs.

    python run_train.py
    python run_train.py --lr 5e-4 --epochs 400 --stop_after 55     # 55 minutes in all

train_device0.py trains each model in its own process; the flags are those of train_device0.py. If
the recipe or --threshold differs from the last run's, a new run begins and the old run is moved
aside. A missing dataset is refused before anything is trained. If a model fails, the others are
still trained; the summary at the end and the exit status report it.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import cli, processes
from utils.datasets import find_dataset
from utils.recipe import recipe_values
from utils.training.logs import EpochRecord, best_epochs
from utils.training.store import RunStatus, last_run, run_status

SCRIPT = Path(__file__).resolve().parent / "train_device0.py"
OWN = ("model_names", "dataset_names", "stop_after", "resume")  # not passed on unchanged


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script with `argv`, by default the arguments of the command line."""
    args = parse(argv)
    deadline = None if args.stop_after is None else time.monotonic() + 60 * args.stop_after

    for dataset_name in args.dataset_names:
        if any(status_of(args, dataset_name, model_name) is not RunStatus.FINISHED
               for model_name in args.model_names):
            find_dataset(args.dataset_dir, dataset_name)

    states = {}
    received = None
    for dataset_name in args.dataset_names:
        for model_name in args.model_names:
            now = status_of(args, dataset_name, model_name)
            minutes = None if deadline is None else (deadline - time.monotonic()) / 60
            if now is RunStatus.FINISHED:
                state = "finished before"
            elif now is None:
                state = "failed to read"
            elif received or (minutes is not None and minutes <= 0):
                state = "to be resumed" if now is RunStatus.RESUME else "not begun"
            else:
                command = training_command(args, dataset_name, model_name, now is RunStatus.RESUME)
                command += [] if minutes is None else ["--stop_after", str(minutes)]
                print(f"\n== {model_name} on {dataset_name}", flush=True)
                status, received = processes.run(command)
                state = "stopped" if received else f"failed ({status})" if status else "done"
                after = status_of(args, dataset_name, model_name)
                if state == "done" and after is not RunStatus.FINISHED:
                    state = "to be resumed" if after else "failed to read"
            states[dataset_name, model_name] = state

    print("\n" + summary(args, states))
    if received:
        return 128 + received
    return int(any(state.startswith("failed") for state in states.values()))


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parses the flags of train_device0.py without --weights."""
    parser = cli.make_parser(__doc__)
    cli.add_training(parser, resume=False)
    parser.add_argument("--resume", action="store_true",
                        help="accepted, but without effect: stopped runs of the same recipe are "
                             "resumed anyway")
    args = parser.parse_args(argv)
    cli.refuse_bf16(args.precision)
    return args


def status_of(args: Namespace, dataset_name: str, model_name: str) -> RunStatus | None:
    """The status of the run that the flags ask for.

    None if the disk or the network does not give its checkpoint; a line says so.
    """
    return status_and_run(args, dataset_name, model_name)[0]


def status_and_run(
    args: Namespace, dataset_name: str, model_name: str
) -> tuple[RunStatus | None, dict[str, Any]]:
    """The result of `status_of`, and what the newest checkpoint says about its run."""
    try:
        last = last_run(args.output_dir, dataset_name, model_name)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return None, {}
    return run_status(last, recipe_values(vars(args)), args.threshold), last


def training_command(
    args: Namespace, dataset_name: str, model_name: str, resume: bool
) -> list[str]:
    """The command that trains one model with the flags of this script."""
    command = [sys.executable, str(SCRIPT), "--model_name", model_name,
               "--dataset_name", dataset_name]
    for name, value in vars(args).items():
        if name in OWN or value is None:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        command += [f"--{name}", *map(str, values)]
    return [*command, "--resume"] if resume else command


def summary(args: Namespace, states: Mapping[tuple[str, str], str]) -> str:
    """A table with each model's state and its best epoch by mIoU in the run of these flags."""
    lines = [f"{'model':<16} {'dataset':<12} {'state':<16} epochs   mIoU  in   Pd      Fa/1e-6"]
    for (dataset_name, model_name), state in states.items():
        status, meta = status_and_run(args, dataset_name, model_name)
        if status is RunStatus.NEW:
            meta = {}  # of other flags
        history = [EpochRecord(**record) for record in meta.get("history", ())]
        best = best_epochs(history).get("mIoU")
        scores = "" if best is None else (
            f"  {best.mIoU:.4f} {best.epoch:>3} {best.Pd:.4f} {best.Fa * 1e6:>8.2f}"
        )
        done = f"{len(history)}/{meta['recipe']['epochs']}" if meta else "-"
        lines.append(f"{model_name:<16} {dataset_name:<12} {state:<16} {done:>7}{scores}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
