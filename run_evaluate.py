"""Tests and scores every trained model: one table, for NUDT-SIRST beside the reference; one report.

    python run_evaluate.py --dataset_name NUDT-SIRST

Predicts the test list with the best weights of each model (as test.py does), scores it (as
cal_metrics.py does), and writes the comparison to result/<dataset>_comparison.md and .csv. Writes
result/<dataset>_report.html, one page with tables, curves, predictions side by side, the worst
images, configuration and versions. The table says which models are not trained.
"""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import cli
from utils.checkpoint.weights import find_weights, read_meta
from utils.datasets import ImageList, load_split
from utils.errors import UserError
from utils.paths import Paths, PredictionPaths
from utils.predict import predict_split
from utils.report.curves import save_score_curves
from utils.report.evaluation_page import save_page
from utils.report.panels import detection_figure, read_examples, save_worst, some_rows
from utils.report.scores import ModelScores, save_report, save_tables, score_predictions
from utils.runtime import start


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(__doc__, without_effect=("seed",))
    cli.add_threshold(parser)
    cli.add_batch_size(parser)
    cli.add_skip_bad(parser)
    parser.add_argument("--worst", type=cli.not_negative, default=4, metavar="N",
                        help="the report shows the N worst images of each model; default 4")
    args = parser.parse_args(argv)
    command = "python run_evaluate.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    device = start(args.device, args.precision).describe()

    for dataset_name in args.dataset_names:
        weights = {
            model_name: find_weights(args.output_dir, dataset_name, model_name)
            for model_name in args.model_names
        }
        if not any(weights.values()):
            raise UserError(
                f"{Paths(args.output_dir).checkpoints(dataset_name)}: none of "
                f"{', '.join(weights)} is trained; train with "
                f"python run_train.py --dataset_name {dataset_name}, or predict by test.py and "
                "score by cal_metrics.py with the weights that come with the project"
            )
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           skip_bad=args.skip_bad)
        print(device)
        print(split.describe(), flush=True)
        models = {}
        for model_name, path in weights.items():
            models[model_name] = path and predict_and_score(args, split, model_name, path)
        table, written = save_tables(args.output_dir, dataset_name, models)
        print(f"\n{table}")
        written += draw(args, split, models, weights, [device, command])
        print("written:", *written, sep="\n  ")


def predict_and_score(
    args: Namespace, split: ImageList, model_name: str, weights: Path
) -> ModelScores:
    """Predicts the test list with one model, scores it, writes the report of that model."""
    meta = read_meta(weights)  # now: a training may replace the file while we predict
    predict_split(model_name, weights, split, args.output_dir, args.batch_size)
    folder = PredictionPaths(Paths(args.output_dir).predictions(split.dataset), model_name).mat
    model = score_predictions(split, folder, args.threshold, meta)
    _, files = save_report(args.output_dir, split, model_name, model)
    print(f"{model_name}:", *files, sep="\n  ", flush=True)
    return model


def draw(
    args: Namespace, split: ImageList, models: Mapping[str, ModelScores | None],
    weights: Mapping[str, Path | None], run: Sequence[str],
) -> list[Path]:
    """Draws the figures of all models and the page that shows them; the paths written."""
    paths, scored = Paths(args.output_dir), {name: model for name, model in models.items() if model}
    curves, side_by_side = paths.score_curves(split.dataset), paths.qualitative(split.dataset)
    save_score_curves(curves, {name: model.evaluator for name, model in scored.items()},
                      split.dataset)
    folders = {name: model.predictions.folder for name, model in scored.items()}
    detection_figure(side_by_side, read_examples(split, folders, some_rows(split)), args.threshold)
    worst = {name: save_worst(args.output_dir, name, split, model, args.worst)
             for name, model in scored.items()}
    page = save_page(args.output_dir, split, models, weights, run, curves[0], side_by_side[0],
                     worst)
    return [page, *curves, *side_by_side, *([paths.worst(split.dataset)] if args.worst else [])]


if __name__ == "__main__":
    cli.run(main)
