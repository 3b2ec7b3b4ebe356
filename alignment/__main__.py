"""Compares the networks with PyTorch, from one layer to whole training runs, in a report.

    python -m alignment                                            # all four, NUDT-SIRST
    python -m alignment --model_name L2SKNet_UNet --epochs 5       # and train both for 5 epochs
    python -m alignment --model_name L2SKNet_UNet --epochs 60 --only_pytorch --compile

Both frameworks get equal weights and images. First, stage by stage, forward and backward: their
distances from each other and from the truth in float64. Then training steps side by side. Then,
with --epochs, whole runs; a second call goes on with them. Ctrl-C and SIGTERM save a whole run.
With --only_pytorch PyTorch trains alone, with the initial weights and the order of batches that
train_device0.py has for this seed. PyTorch runs the networks of alignment/twin.py in its own
processes; `pip install -r requirements-align.txt` installs it.

Writes <output_dir>/alignment/<dataset>/report.md and report.html, and the figures. The exit status
is 0 if all passes, 1 if not.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields

from alignment import report
from alignment.job import FRAMEWORKS, Job, framework_folder, start
from alignment.stages import check_known
from utils import cli
from utils.errors import UserError
from utils.paths import Paths
from utils.recipe import Recipe, recipe_values


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_recipe(parser, "batch_size", "image_size", "milestones", "lr",
                   batch_size=Recipe.batch_size, image_size=Recipe.image_size, lr=5e-4)
    parser.add_argument("--batches", type=cli.positive(int), default=5, metavar="N",
                        help="number of batches that are compared stage by stage; default 5")
    parser.add_argument("--steps", type=cli.positive(int), default=10, metavar="N",
                        help="number of training steps side by side; default 10")
    parser.add_argument("--epochs", type=cli.not_negative, default=0, metavar="N",
                        help="train whole runs of N epochs; default 0: none")
    parser.add_argument("--spoil", metavar="WEIGHT",
                        help="make this weight 1 %% larger in Jittor, to see the comparison fail")
    cli.add_evaluation(parser)
    parser.add_argument("--only_pytorch", action="store_true",
                        help="train PyTorch alone for --epochs, and compare nothing")
    parser.add_argument("--compile", action="store_true",
                        help="use torch.compile and channels_last, the fastest way in float32, in "
                             "whole runs of PyTorch; default eager")
    parser.set_defaults(seed=Recipe.seed, precision="float32")
    args = parser.parse_args(argv)
    cli.refuse_bf16(args.precision)
    for model_name in args.model_names:
        check_known(model_name)
    if args.only_pytorch and not args.epochs:
        raise UserError("--only_pytorch: trains whole runs; give their length with --epochs N")
    recipe = Recipe(**recipe_values(vars(args)))

    status = start("torch_side", "check")
    if status:
        return status
    dataset_dir, output_dir = args.dataset_dir.resolve(), args.output_dir.resolve()
    results = []
    for dataset_name in args.dataset_names:
        folder = output_dir / "alignment" / dataset_name
        print(f"alignment: {', '.join(args.model_names)} on {dataset_name}, batches of "
              f"{args.batch_size} at {args.image_size}x{args.image_size}: {args.batches} by stage, "
              f"{args.steps} steps, {args.epochs} epochs; device {args.device}; "
              f"results in {folder}", flush=True)
        for model_name in args.model_names:
            print(f"\n== {model_name} on {dataset_name}", flush=True)
            given = {**vars(args), "model_name": model_name, "dataset_name": dataset_name,
                     "dataset_dir": str(dataset_dir), "output_dir": str(output_dir),
                     "recipe": recipe}
            status = run_sides(Job(**{each.name: given[each.name] for each in fields(Job)}))
            if status:
                return status
            if args.only_pytorch:
                continue
            results.append(report.read_results(folder)[model_name])
            for pair in zip(*report.headline({model_name: results[-1]})):
                print(f"{pair[0]:<9} {pair[1]}")
            print("wrote", *report.save(folder), flush=True)
        trained = FRAMEWORKS[args.only_pytorch:] if args.epochs else ()
        for framework in trained:
            logs = Paths(framework_folder(output_dir, dataset_name, framework)).logs
            print(f"curves: python loss_curves.py {logs} --framework {framework}")
    return 0 if all(map(report.passed, results)) else 1


def run_sides(job: Job) -> int:
    """Runs both sides of a model, task by task; returns the first exit status that is not 0."""
    if job.only_pytorch:
        return start("jittor_side", "begin", job) or start("torch_side", "train", job)
    for task in ("compare", "train") if job.recipe.epochs else ("compare",):
        try:
            for side in ("jittor_side", "torch_side"):
                status = start(side, task, job)
                if status:
                    return status
        finally:
            shutil.rmtree(job.exchange, ignore_errors=True)  # a gigabyte for each batch
    if job.recipe.epochs:
        report.save_epochs(job)
    return 0


if __name__ == "__main__":
    cli.run(main)
