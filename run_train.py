"""Trains the four models in turn. What is finished is skipped, what was stopped is resumed.

    python run_train.py
    python run_train.py --lr 5e-4 --epochs 400 --stop_after 55     # 55 minutes in all

Each model is a run of train_device0.py in a process of its own, and the flags of training are
those of train_device0.py. With other settings than the run before, a new run begins and the old
one is kept aside. A model that fails does not stop the others; the summary at the end says so,
and so does the exit status.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from utils import cli, processes
from utils.checkpoint.weights import checkpoint_folder, read_meta
from utils.errors import UserError
from utils.recipe import FIELDS, recipe_of, same_run, settle
from utils.training.logs import EpochRecord, best_epochs

SCRIPT = Path(__file__).resolve().parent / "train_device0.py"
PASSED_ON = ("dataset_dir", "output_dir", "device", "precision", "num_workers", "threshold",
             "eval_every", "eval_last", *FIELDS)


def main(argv=None) -> int:
    """Runs the script with the arguments given, those of the command line by default."""
    parser = cli.make_parser(__doc__)
    cli.add_training(parser, resume=False)
    args = parser.parse_args(argv)
    deadline = None if args.stop_after is None else time.monotonic() + 60 * args.stop_after

    states = {}
    received = None
    for dataset_name in args.dataset_names:
        for model_name in args.model_names:
            command = training_command(args, dataset_name, model_name)
            minutes = None if deadline is None else (deadline - time.monotonic()) / 60
            if command is None:
                state = "finished before"
            elif received or (minutes is not None and minutes <= 0):
                state = "not begun"
            else:
                command += [] if minutes is None else ["--stop_after", str(minutes)]
                print(f"\n== {model_name} on {dataset_name}", flush=True)
                status, received = processes.run(command)
                state = "stopped" if received else f"failed ({status})" if status else "done"
                if state == "done" and training_command(args, dataset_name, model_name):
                    state = "to be resumed"
            states[dataset_name, model_name] = state

    print("\n" + summary(args.output_dir, states))
    if received:
        return 128 + received
    return int(any(state.startswith("failed") for state in states.values()))


def training_command(args, dataset_name, model_name):
    """The command that trains this model, new or resumed; None if its run is finished."""
    command = [sys.executable, str(SCRIPT), "--model_name", model_name,
               "--dataset_name", dataset_name]
    for name in PASSED_ON:
        value = getattr(args, name)
        if value is not None:
            values = [] if value is True else value if isinstance(value, list) else [value]
            command += [f"--{name}", *map(str, values)]
    meta = last_meta(args.output_dir, dataset_name, model_name)
    given = {name: getattr(args, name) for name in FIELDS}
    if not meta or not same_run(given, recipe_of(meta)):
        return command
    if len(meta["history"]) >= settle(given, recipe_of(meta)).epochs:
        return None
    return [*command, "--resume"]


def last_meta(output_dir, dataset_name, model_name):
    """What the last checkpoint says of the run; empty if there is none that can be read."""
    try:
        return read_meta(checkpoint_folder(output_dir, dataset_name, model_name) / "last.npz")
    except UserError:  # the training itself will say so
        return {}


def summary(output_dir, states):
    """A table: what became of each model, and its best epoch by mIoU."""
    lines = [f"{'model':<16} {'dataset':<12} {'state':<16} epochs   mIoU  in   Pd      Fa/1e-6"]
    for (dataset_name, model_name), state in states.items():
        meta = last_meta(output_dir, dataset_name, model_name)
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
