"""Draws the loss curves from training logs: ours, the official PyTorch code's, some peers'.

    python loss_curves.py                                    # the logs of the four models in log/
    python loss_curves.py PYTORCH/log --framework Pytorch    # a folder of logs, or single files
    python loss_curves.py A.txt B.txt --labels plain augment # single runs over each other
    python loss_curves.py DRPCA-Net/log.txt                  # also logs of DNANet and MSHNet

Writes loss_curves/<framework>/<model>_loss_curve.png (loss on a linear and on a log scale, and
mIoU), and of several of the four models loss_curves/<framework>/nudt_sirst_comparison.png, all
together; with --labels loss_curves/<framework>/plain_augment_comparison.png instead.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.errors import UserError
from utils.paths import Paths
from utils.report import curves
from utils.training import logs
from utils.training.logs import EpochRecord


def main(argv: list[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(
        __doc__, without_effect=("dataset_dir", "device", "seed", "num_workers"))
    parser.add_argument(
        "logs", nargs="*", type=Path, metavar="LOG_OR_FOLDER",
        help="training logs or folders of logs; default <output_dir>/log"
    )
    parser.add_argument("--framework", default="Jittor",
                        help="name of the folder in loss_curves/ and the figures; default Jittor")
    parser.add_argument("--labels", nargs="+", metavar="LABEL",
                        help="one label for each log: draw the logs over each other")
    args = parser.parse_args(argv)

    paths = Paths(args.output_dir)
    if args.labels:
        histories = read_runs(args.logs, args.labels)
        path = paths.loss_comparison(args.framework, "_".join(histories))
        curves.save_curves(path, histories, args.framework)
        print(f"wrote {path}")
        return
    found = find_logs(args)
    for dataset, models in found.items():
        # Without a prefix, several datasets would overwrite each other's files.
        prefix = f"{dataset}_" if dataset and len({*found} - {""}) > 1 else ""
        histories = {model: newest_run(model, read) for model, read in models.items()}
        for model, records in histories.items():
            path = paths.loss_curve(args.framework, model, prefix)
            title = f"{model}, {dataset}, {args.framework}" if dataset else model
            curves.save_curves(path, {model: records}, title)
            print(f"wrote {path}")
        if dataset and len(histories) > 1:
            path = paths.loss_comparison(args.framework, dataset)
            curves.save_curves(path, histories, f"{dataset}, {args.framework}")
            print(f"wrote {path}")


def read_runs(paths: Sequence[Path], labels: Sequence[str]) -> dict[str, list[EpochRecord]]:
    """The newest run in each log, by its label.

    Raises:
        UserError: there is not one label for each, or a log cannot be read.
    """
    if len(set(labels)) != len(labels) or len(labels) != len(paths):
        raise UserError(f"--labels: {len(set(labels))} different labels for {len(paths)} logs; "
                        "name the logs first, then one label for each")
    return {label: newest_run(label, {path: logs.read_log(path)})
            for label, path in zip(labels, paths)}


def find_logs(args: Namespace) -> dict[str, dict[str, dict[Path, list[EpochRecord]]]]:
    """Reads the logs: by dataset, model and path; logs of one model oldest first.

    A log that the command line names is always taken; if its name holds no model, the log's dataset
    is "" and its model the file's stem. A folder's log is taken if its name holds a chosen dataset
    and model.

    Raises:
        UserError: there is no log.
    """
    sources = args.logs or [Paths(args.output_dir).logs]
    read: dict[tuple[str, str], dict[Path, list[EpochRecord]]] = {}
    other_datasets = set()
    for source in sources:
        named = source in args.logs and not source.is_dir()
        for path in [source] if named else source.glob("*.txt"):
            parsed = logs.parse_log_name(path, cli.MODEL_NAMES if named else args.model_names)
            if not named and not parsed:
                continue
            dataset, model = parsed or ("", path.stem)
            if parsed and not dataset:
                dataset = args.dataset_names[0]
            if not named and dataset not in args.dataset_names:
                other_datasets.add(dataset)
                continue
            try:
                records = logs.read_log(path)
            except UserError as error:
                if named:
                    raise
                print(f"skipped {error}")  # a run that has only begun does not stop the others
                continue
            read.setdefault((dataset, model), {})[path.resolve()] = records
    if not read:
        hint = f" (there are logs of {', '.join(sorted(other_datasets))})" if other_datasets else ""
        raise UserError(
            f"no log of {', '.join(args.model_names)} on {', '.join(args.dataset_names)} in"
            f" {', '.join(map(str, sources))}{hint}; train first (python run_train.py), or name"
            " logs or their folder (python loss_curves.py LOG_OR_FOLDER)"
        )

    order = {model: index for index, model in enumerate(cli.MODEL_NAMES)}
    found: dict[str, dict[str, dict[Path, list[EpochRecord]]]] = {}
    for dataset, model in sorted(read, key=lambda key: (key[0], order.get(key[1], 99), key[1])):
        paths = read[dataset, model]
        oldest_first = sorted(paths, key=lambda path: (logs.log_started(path), path.name))
        found.setdefault(dataset, {})[model] = {path: paths[path] for path in oldest_first}
    return found


def newest_run(model: str, read: dict[Path, list[EpochRecord]]) -> list[EpochRecord]:
    """The newest run in the logs of one model; prints which runs and losses are left out."""
    records, older_runs = logs.join_logs(read.values())
    if older_runs:
        print(
            f"{model}: {older_runs + 1} runs in {len(read)} logs; the newest is drawn"
            f" ({list(read)[-1].name}, up to epoch {records[-1].epoch})"
        )
    bad = [record.epoch for record in records if not math.isfinite(record.loss)]
    if len(bad) == len(records):
        print(f"{model}: no finite loss in {', '.join(path.name for path in read)}")
    elif bad:
        print(f"{model}: the loss is not finite in {len(bad)} epochs, first in epoch {bad[0]}")
    return records


if __name__ == "__main__":
    cli.run(main)
