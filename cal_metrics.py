"""Scores the predictions of one or several models, ours or anyone's, against the test list.

    python cal_metrics.py --model_name L2SKNet_UNet --dataset_name NUDT-SIRST
    python cal_metrics.py --model_name L2SKNet_UNet L2SKNet_FPN --worst 10
    python cal_metrics.py --model_name L2SKNet_UNet --fa 1e-5 1e-6
    python cal_metrics.py --pred result/NUDT-SIRST/mat/L2SKNet_UNet /data/ACM/NUDT-SIRST

Reads result/<dataset>/mat/<model>/ (what test.py writes), or the folders of --pred, for every name
of the test list: NAME.mat (key T or the only array), NAME.npy or NAME.png; probabilities from 0 to
1, in 8 or 16 bits from 0 to full scale. Prints the numbers of images and targets, and the scores
by the definitions of the official code and by strict ones. Writes, below result/,

    <dataset>_<model>_<timestamp>.txt   the scores
    <dataset>_<model>.mat               the ROC curve (tpr, fpr), comparable
    <dataset>_<model>_pd_fa.csv         Pd, Fa and mIoU at 101 thresholds, strict
    <dataset>_<model>_per_image.csv     IoU, targets, hits, misses, false pixels; worst first
    <dataset>[_<model>]_curves.png .pdf ROC, precision-recall and Pd against Fa of all the models
    <dataset>_models.md .csv            the scores of several models in one table
    <dataset>/worst/<model>/            with --worst: pictures of the worst images
"""

from __future__ import annotations

from collections.abc import Sequence

from utils import cli
from utils.datasets import load_split
from utils.paths import Paths
from utils.predict.prediction_files import prediction_folders
from utils.report.curves import save_score_curves
from utils.report.panels import save_worst
from utils.report.scores import save_report, save_tables, score_predictions


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], any_model=True,
                             without_effect=("device", "seed"))
    cli.add_threshold(parser)
    cli.add_pred(parser)
    cli.add_skip_bad(parser)
    cli.add_fa(parser, "print the smallest threshold whose Fa (pixels of false alarms per pixel, "
               "strict) on this list is at most RATE, e.g. 1e-6; with Pd and mIoU there, and a "
               "bootstrap interval of the threshold",
               nargs="+", default=[])
    parser.add_argument("--by_size", action="store_true",
                        help="print Pd and IoU of small and large targets too, by area in pixels")
    parser.add_argument("--worst", type=cli.not_negative, default=0, metavar="N",
                        help="save pictures of the N worst images of each model; default 0")
    args = parser.parse_args(argv)

    found = prediction_folders(args.output_dir, args.dataset_names, args.model_names,
                               args.default_models, args.pred)
    for dataset_name, folders in found.items():
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           skip_bad=args.skip_bad)
        print(split.describe(), flush=True)
        # Before anything is written: predictions may be refused.
        models = {name: score_predictions(split, folder, args.threshold)
                  for name, folder in folders.items()}
        written = []
        for name, model in models.items():
            report, files = save_report(args.output_dir, split, name, model, args.fa,
                                        args.by_size)
            print(f"{report}\n", flush=True)
            written += files
        if len(models) > 1:
            table, files = save_tables(args.output_dir, dataset_name, models, trained=False,
                                       by_size=args.by_size)
            print(f"{table}\n")
            written += files
        alone = "" if len(models) > 1 else next(iter(models))
        curves = Paths(args.output_dir).score_curves(dataset_name, alone)
        save_score_curves(curves, {name: model.evaluator for name, model in models.items()},
                          dataset_name)
        written += curves
        for name, model in models.items() if args.worst else ():
            pictures = save_worst(args.output_dir, name, split, model, args.worst)
            written.append(f"{pictures[0].parent} ({len(pictures)} pictures)")
        print("written:", *written, sep="\n  ", end="\n\n")


if __name__ == "__main__":
    cli.run(main)
