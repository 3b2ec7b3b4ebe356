"""Weights that come with the project, in model/pretrained/<dataset>/<model>.npz, each with a card.

    python -m utils.pretrained --model_name L2SKNet_UNet     # publishes a finished or stopped run

copies the run's best weights there, writes the card beside them, and the log to loss_curves/Jittor.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from utils import cli
from utils.checkpoint import checkpoint_folder, read_meta
from utils.errors import UserError
from utils.files import atomic_path

FOLDER = cli.ROOT / "model" / "pretrained"
METRICS = (("mIoU", "{:.4f}"), ("pixAcc", "{:.4f}"), ("fscore", "{:.4f}"), ("Pd", "{:.4f}"),
           ("Fa", "{:.3g}"))


def find_pretrained(dataset_name, model_name):
    """The weights of a model that come with the project, or None."""
    path = FOLDER / dataset_name / f"{model_name}.npz"
    return path if path.is_file() else None


def publish(output_dir, dataset_name, model_name, remark=""):
    """Copies the best weights of a run to model/pretrained/ and its log to loss_curves/Jittor/.

    Args:
        remark: a sentence for the card.

    Returns:
        The paths written.

    Raises:
        UserError: the run is not there, or was never evaluated.
    """
    run = checkpoint_folder(output_dir, dataset_name, model_name)
    best, last = run / "best.npz", run / "last.npz"
    for path in (best, last):
        if not path.is_file():
            raise UserError(f"{path}: not there; train and evaluate {model_name} first")
    meta = read_meta(last)
    log = Path(output_dir) / "log" / f"{dataset_name}_{model_name}_{meta['started']}.txt"
    weights = FOLDER / dataset_name / f"{model_name}.npz"
    card = weights.with_suffix(".md")
    copied_log = cli.ROOT / "loss_curves" / "Jittor" / log.name
    for source, target in ((best, weights), (log, copied_log)):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    with atomic_path(card) as temporary:
        Path(temporary).write_text(make_card(read_meta(best), meta, remark, _commit()), "utf-8")
    return weights, card, copied_log


def make_card(best, last, remark, commit):
    """The card, Markdown: `best` and `last` are the meta data of the two checkpoints."""
    recipe, at_best, at_last = best["recipe"], best["history"][-1], last["history"][-1]
    rows = [
        ("data", f"{best['dataset']}, train.txt; metrics on test.txt"),
        ("epochs", f"best mIoU after epoch {at_best['epoch']} of {at_last['epoch']} trained; "
                   f"the schedule has {recipe['epochs']}"),
        ("learning rate", f"{recipe['lr']:g}"), ("batch size", recipe["batch_size"]),
        ("seed", recipe["seed"]), ("run begun", best["started"]),
        ("published", f"{time.strftime('%Y-%m-%d')}, commit {commit}"),
    ]
    lines = [f"# {best['model']} on {best['dataset']}", ""]
    lines += [remark, ""] if remark else []
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["| checkpoint | loss | " + " | ".join(name for name, _ in METRICS) + " |",
              "|---|---|" + "---|" * len(METRICS)]
    for name, record in (("this file, the best by mIoU", at_best), ("the last epoch", at_last)):
        values = [form.format(record[key]) if record[key] is not None else "–"
                  for key, form in METRICS]
        lines.append(f"| {name} ({record['epoch']}) | {record['loss']:.4f} | "
                     + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _commit():
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=cli.ROOT,
                            capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def main(argv=None) -> None:
    """Runs the command with the arguments given, those of the command line by default."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"])
    parser.add_argument("--remark", default="", help="a sentence for the card")
    args = parser.parse_args(argv)
    for dataset_name in args.dataset_names:
        for model_name in args.model_names:
            for path in publish(args.output_dir, dataset_name, model_name, args.remark):
                print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
