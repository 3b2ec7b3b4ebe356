"""Tests and scores every trained model: one table beside the reference table, one report.

    python run_evaluate.py --dataset_name NUDT-SIRST

Predicts the test list with the best weights of each model (as test.py does), scores it (as
cal_metrics.py does), and writes the comparison to result/<dataset>_comparison.md and .csv, and all
there is to see to result/<dataset>_report.html, a page that needs no other file: tables, curves,
predictions side by side, the worst images, configuration and versions. A model that is not trained
is listed as such.
"""

from __future__ import annotations

import shlex
import sys

from utils import cli
from utils.datasets import load_split
from utils.errors import UserError
from utils.html_report import save_page
from utils.reports import Result
from utils.scoring import (
    describe_predictions,
    mat_folder,
    save_report,
    save_tables,
    score_predictions,
)


def main(argv=None) -> None:
    """Runs the script with the arguments given, those of the command line by default."""
    parser = cli.make_parser(__doc__)
    cli.add_threshold(parser)
    cli.add_batch_size(parser)
    parser.add_argument("--worst", type=cli.positive(int), default=4, metavar="N",
                        help="the report shows the N worst images of each model; default 4")
    args = parser.parse_args(argv)
    command = "python run_evaluate.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    # Jittor starts with the first of these.
    from utils.runtime import start

    runtime = start(args.device, args.precision)
    from utils.checkpoint import find_weights, read_meta
    from utils.predict import predict_split

    for dataset_name in args.dataset_names:
        weights = {
            model_name: find_weights(args.output_dir, dataset_name, model_name)
            for model_name in args.model_names
        }
        if not any(weights.values()):
            raise UserError(
                f"{args.output_dir / 'model' / 'checkpoints' / dataset_name}: none of "
                f"{', '.join(weights)} is trained; train with "
                f"python run_train.py --dataset_name {dataset_name}"
            )
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers)
        print(runtime.describe())
        print(split.describe(), flush=True)
        results = dict.fromkeys(weights)
        for model_name, path in weights.items():
            if path is None:
                continue
            predict_split(
                model_name, path, split, args.output_dir, dataset_name, args.batch_size or 8
            )
            folder = mat_folder(args.output_dir, dataset_name, model_name)
            evaluator = score_predictions(split, folder, args.threshold)
            _, *files = save_report(args.output_dir, dataset_name, model_name, split.names,
                                    evaluator, describe_predictions(split, folder))
            print(f"{model_name}:", *files, sep="\n  ", flush=True)
            meta = read_meta(path)
            epoch = f"{len(meta['history'])} of {meta['recipe']['epochs']}" if meta else ""
            results[model_name] = Result(evaluator, epoch)
        table, *files = save_tables(args.output_dir, dataset_name, results)
        print(f"\n{table}")
        files += save_page(args.output_dir, split, results, weights, args.worst, command,
                           runtime.describe())
        print("written:", *files, sep="\n  ")


if __name__ == "__main__":
    cli.run(main)
