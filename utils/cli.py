"""The command-line flags that the scripts share, and how a script ends."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model import MODEL_NAMES
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DATASET = "NUDT-SIRST"


def make_parser(doc, default_models=MODEL_NAMES, any_model=False):
    """A parser with the flags common to all scripts, official spellings included.

    Args:
        doc: the script's docstring, shown by --help.
        default_models: what --model_name is when it is not given.
        any_model: whether names beside the four are taken (predictions of another method).
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model_name", "--model_names", dest="model_names", default=list(default_models),
        nargs="+", choices=None if any_model else MODEL_NAMES,
        metavar="MODEL", help=f"of {', '.join(MODEL_NAMES)}; default {' '.join(default_models)}",
    )
    parser.add_argument(
        "--dataset_name", "--dataset_names", dest="dataset_names", default=[DATASET], nargs="+",
        metavar="DATASET", help=f"folders below --dataset_dir; default {DATASET}",
    )
    parser.add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", metavar="DIR",
        help="where the datasets lie; default data",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT, metavar="DIR",
        help="everything is written below it; default the project's folder",
    )
    add_device(parser)
    parser.add_argument("--seed", type=_seed, default=None, metavar="N", help="default 42")
    parser.add_argument(
        "--num_workers", "--threads", dest="num_workers", type=not_negative, default=4,
        metavar="N", help="threads that decode images; default 4",
    )
    return parser


def add_device(parser, precision="default"):
    """--device and --precision, for `runtime.start`."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="default auto: a GPU that works, else the CPU",
    )
    parser.add_argument(
        "--precision", choices=("default", "float32", "tf32"), default=precision,
        help="on a GPU: default lets cuDNN use TF32 in convolutions, as PyTorch does; float32 "
        "rounds nothing; tf32 is TF32 in matrix products too; here %(default)s",
    )


def add_threshold(parser):
    """--threshold: above it a pixel is a target."""
    parser.add_argument(
        "--threshold", type=_threshold, default=0.5, metavar="T",
        help="a pixel is a target above it, 0 ≤ T < 1; default 0.5",
    )


def add_pred(parser):
    """--pred: folders of predictions in place of result/<dataset>/mat/<model>.

    --model_name is then None where it is not given, see `scoring.prediction_folders`.
    """
    parser.set_defaults(model_names=None, default_models=parser.get_default("model_names"))
    parser.add_argument(
        "--pred", nargs="+", type=Path, metavar="DIR",
        help="folders with predictions (NAME.mat, .npy or .png) of any method, called as "
        "--model_name says, else by the folders' names; or one folder that holds a folder for each "
        "--model_name; default result/<dataset>/mat/<model>",
    )


def add_batch_size(parser, default=8):
    """--batch_size, its default shown but None, so that a resumed run can tell."""
    parser.add_argument(
        "--batch_size", "--batchSize", dest="batch_size", type=positive(int), metavar="N",
        help=f"images a step; default {default}",
    )


def add_milestones(parser):
    """--milestones: when the learning rate falls, if not as `Recipe` says."""
    parser.add_argument("--milestones", type=positive(int), nargs="*", metavar="EPOCH",
                        help="lower the learning rate to a tenth after each of these epochs (none: "
                        "never); default half and three quarters of --epochs")


def add_training(parser, resume=True):
    """The flags of training, `resume` says whether with --resume.

    Those of the recipe default to None: the value of the resumed run, else of `Recipe`.
    """
    add_threshold(parser)
    add_batch_size(parser)
    parser.add_argument("--epochs", "--nEpochs", dest="epochs", type=positive(int), metavar="N",
                        help="default 400")
    parser.add_argument("--lr", type=positive(float), metavar="RATE",
                        help="learning rate; default 0.001 (the paper's code: 5e-4)")
    add_milestones(parser)
    parser.add_argument("--augment", action="store_const", const=True,
                        help="flip and transpose training images at random (the paper's code does "
                        "not)")
    parser.add_argument("--image_size", type=positive(int), metavar="PIXELS",
                        help="training images are resized to a square of it; default 256")
    parser.add_argument("--eval_every", type=positive(int), default=1, metavar="N",
                        help="evaluate after every N epochs; default 1")
    parser.add_argument("--eval_last", type=positive(int), default=1, metavar="N",
                        help="evaluate after each of the last N epochs; default 1")
    parser.add_argument("--stop_after", type=positive(float), metavar="MINUTES",
                        help="save and stop after this time; --resume goes on")
    if resume:
        parser.add_argument("--resume", nargs="?", const="last", metavar="CHECKPOINT",
                            help="go on from the model's last checkpoint, or from the one named")


def positive(kind):
    """An argparse type: a number of `kind` above zero."""

    def parse(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} must be above zero")
        return value

    parse.__name__ = kind.__name__
    return parse


def _seed(text):
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 2**32 - 1")
    return value


def not_negative(text):
    """An argparse type: an integer from zero on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be below zero")
    return value


def _threshold(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to below 1")
    return value


def run(main):
    """Runs a script's `main`; a UserError or a file's error is one line and exit status 2."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        status = 0
    except OSError as error:  # no space, no permission: it names the file and the reason
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
