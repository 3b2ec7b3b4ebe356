"""Scores the predictions of one or several models against the test list.

    python cal_metrics.py --model_name L2SKNet_UNet --dataset_name NUDT-SIRST

Reads result/<dataset>/mat/<model>/NAME.mat (key T, probabilities; what test.py writes, or any
other method in that form) for every name of the test list. Prints the scores, in the definitions
of the official code and in strict ones, and writes them to
result/<dataset>_<model>_<timestamp>.txt and the ROC curve (tpr, fpr) to
result/<dataset>_<model>.mat.
"""

from __future__ import annotations

from utils import cli
from utils.datasets import load_split
from utils.scoring import (
    listed,
    mat_folder,
    save_report,
    score_predictions,
    stale_predictions,
)


def main(argv=None) -> None:
    """Runs the script with the arguments given, those of the command line by default."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], any_model=True)
    cli.add_threshold(parser)
    args = parser.parse_args(argv)

    for dataset_name in args.dataset_names:
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers)
        for model_name in args.model_names:
            folder = mat_folder(args.output_dir, dataset_name, model_name)
            evaluator = score_predictions(split, folder, args.threshold)
            report, *files = save_report(args.output_dir, dataset_name, model_name, evaluator)
            print(report)
            stale = stale_predictions(split, folder)
            if stale:
                print(f"ignored, not in the test list: {listed(stale)}")
            print("written:", *files, sep="\n  ", end="\n\n")


if __name__ == "__main__":
    cli.run(main)
