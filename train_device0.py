"""Trains one model (or several, one after the other) on the first GPU, or on the CPU.

    python train_device0.py --model_name L2SKNet_UNet --dataset_name NUDT-SIRST --lr 5e-4
    python train_device0.py --model_name L2SKNet_UNet --resume      # go on where it stopped

After each epoch it scores the test list and writes the log and `last.npz`, and `best.npz` if mIoU
is the best so far. Ctrl-C, SIGTERM and --stop_after finish the step and save. With several models
--resume goes on with those that have a checkpoint, and begins the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from utils import cli
from utils.datasets import find_dataset
from utils.errors import UserError
from utils.recipe import recipe_values
from utils.runtime import start
from utils.training.run import TrainingOptions, train
from utils.training.stop import StopRequest
from utils.training.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"])
    cli.add_training(parser)
    args = parser.parse_args(argv)
    if args.weights and args.resume:
        raise UserError("--weights: begins a new run; leave out --weights or --resume")
    cli.check_weights(args.weights, args.model_names)
    runs = [(dataset_name, model_name) for dataset_name in args.dataset_names
            for model_name in args.model_names]
    if args.resume == "" or args.resume not in (None, "last") and len(runs) > 1:
        raise UserError(f"--resume {args.resume}: must be the checkpoint of one run; name one "
                        "--model_name and one --dataset_name, or leave out the path")
    cli.refuse_bf16(args.precision)
    recipe = recipe_values(vars(args))
    options = TrainingOptions(args.dataset_dir, args.output_dir, args.num_workers, args.eval_every,
                              args.eval_last, args.threshold, args.skip_bad)
    runtime = start(args.device, args.precision)
    for dataset_name in args.dataset_names:
        find_dataset(args.dataset_dir, dataset_name)
    with StopRequest(args.stop_after) as stop:
        print(runtime.describe())
        begun = runs
        if args.resume and len(runs) > 1:
            begun = [run for run in runs if Store(args.output_dir, *run).newest_run()]
        for dataset_name, model_name in runs:
            resume = args.resume
            if begun and (dataset_name, model_name) not in begun:
                print(f"{model_name} on {dataset_name}: has no checkpoint, and begins")
                resume = None
            if not train(model_name, dataset_name, recipe, options, stop, resume, args.weights):
                return stop.status
    return 0


if __name__ == "__main__":
    cli.run(main, many=True)
