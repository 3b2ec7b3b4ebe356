"""The command-line flags that the scripts share, and how a script ends."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils import environment
from utils.errors import UserError

try:
    environment.check_packages()
except UserError as missing:  # before the imports that would say so by a traceback
    print(f"error: {missing}", file=sys.stderr)
    raise SystemExit(2) from None

from model import MODEL_NAMES
from utils.recipe import FIELDS, Recipe
from utils.runtime import BF16, DEVICES, PRECISIONS, ranks

ROOT = Path(__file__).resolve().parent.parent
DATASET = "NUDT-SIRST"

Flags = argparse._ActionsContainer  # a parser, or a group of one


def make_parser(
    doc: str,
    default_models: Sequence[str] = MODEL_NAMES,
    any_model: bool = False,
    without_effect: Collection[str] = (),
) -> argparse.ArgumentParser:
    """A parser with the flags common to all scripts, official spellings included.

    Args:
        doc: the script's docstring, shown by --help.
        default_models: what --model_name is when it is not given.
        any_model: whether names beside the four are taken (predictions of another method).
        without_effect: those of the common flags, by the names of their values, that the script
            does not use, and --help says so; "device" stands for --precision as well.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    idle = parser.add_argument_group("taken by every script, without effect in this one")

    def place(name: str) -> Flags:
        return idle if name in without_effect else parser

    place("model_names").add_argument(
        "--model_name", "--model_names", dest="model_names", default=list(default_models),
        nargs="+", choices=None if any_model else MODEL_NAMES,
        metavar="MODEL", help=f"of {', '.join(MODEL_NAMES)}; default {' '.join(default_models)}",
    )
    place("dataset_names").add_argument(
        "--dataset_name", "--dataset_names", dest="dataset_names", default=[DATASET], nargs="+",
        metavar="DATASET", help=f"folders below --dataset_dir; default {DATASET}",
    )
    place("dataset_dir").add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", metavar="DIR",
        help="where the datasets lie; default data",
    )
    place("output_dir").add_argument(
        "--output_dir", type=Path, default=ROOT, metavar="DIR",
        help="everything is written below it; default the project's folder",
    )
    add_device(place("device"))
    add_recipe(place("seed"), "seed")
    place("num_workers").add_argument(
        "--num_workers", "--threads", dest="num_workers", type=not_negative, default=4,
        metavar="N", help="threads that decode images; default 4",
    )
    return parser


def add_skip_bad(parser: Flags) -> None:
    """--skip_bad, for scripts that read a dataset."""
    parser.add_argument(
        "--skip_bad", action="store_const", const=True,
        help="leave out images and masks that cannot be used, and say which; default: refuse",
    )


def add_device(parser: Flags, precision: str = "default") -> None:
    """--device and --precision, for `runtime.start`."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto",
        help="default auto: a GPU that works, else the CPU",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=precision,
        help="on a GPU: default lets cuDNN use TF32 in convolutions, as PyTorch does; float32 "
        "rounds nothing; tf32 is TF32 in matrix products too. On a CPU with AVX512-BF16: bf16 "
        "computes with bfloat16 between the first and the last layer; here %(default)s",
    )


def refuse_bf16(precision: str) -> None:
    """For comparisons with float32.

    Raises:
        UserError: the precision is bf16.
    """
    if precision == BF16:
        raise UserError("--precision bf16: what is compared here has the bounds of float32; leave "
                        "the flag out")


def add_threshold(parser: Flags) -> None:
    """--threshold: above it a pixel is a target."""
    from evaluation import THRESHOLD  # here: other scripts start without SciPy

    parser.add_argument(
        "--threshold", type=_threshold, default=THRESHOLD, metavar="T",
        help=f"a pixel is a target above it, 0 ≤ T < 1; default {THRESHOLD}",
    )


def add_pred(
    parser: argparse.ArgumentParser, default: str = "result/<dataset>/mat/<model>"
) -> None:
    """--pred: folders of predictions; --help says what is taken by default.

    --model_name is then None where it is not given, see `prediction_files.prediction_folders`.
    """
    parser.set_defaults(model_names=None, default_models=parser.get_default("model_names"))
    parser.add_argument(
        "--pred", nargs="+", type=Path, metavar="DIR",
        help="folders with predictions (NAME.mat, .npy or .png; what all have after NAME is "
        "taken off) of any method, called as --model_name says, else by the folders' names; "
        "or one folder that holds a folder for each "
        f"--model_name; default {default}",
    )


def add_recipe(parser: Flags, *names: str, **defaults: Any) -> None:
    """The flags of these fields of `Recipe`.

    Args:
        names: of the fields.
        defaults: what they are when they are not given. Without an entry it is None, so that
            `recipe.settle` can tell: the value of the resumed run, else of `Recipe`.
    """
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for field in map(fields.get, names):
        spellings = filter(None, (f"--{field.name}", field.metadata["alias"]))
        default = defaults.get(field.name)
        shown = field.default if default is None else default
        parser.add_argument(*spellings, dest=field.name, default=default,
                            help=field.metadata["help"].format(default=shown), **_form(field))


def _form(field: dataclasses.Field) -> dict[str, Any]:
    """How argparse reads a field of `Recipe`, by the kind of its default."""
    if isinstance(field.default, bool):
        return {"action": "store_const", "const": True}
    number = positive(float if isinstance(field.default, float) else int)
    own = {"seed": _seed, "image_size": not_negative, "crop": not_negative,
           "target_crops": _share, "scale": _factor}
    form = {"type": own.get(field.name, number), "metavar": field.metadata["metavar"]}
    return {**form, "nargs": "*"} if field.default is None else form


def add_batch_size(parser: Flags) -> None:
    """--batch_size where there is no run to resume."""
    add_recipe(parser, "batch_size", batch_size=Recipe.batch_size)


def add_training(parser: Flags, resume: bool = True) -> None:
    """The flags of training, `resume` says whether with --resume."""
    add_threshold(parser)
    add_skip_bad(parser)
    add_recipe(parser, *(name for name in FIELDS if name != "seed"))  # which all scripts have
    add_evaluation(parser)
    parser.add_argument("--stop_after", type=positive(float), metavar="MINUTES",
                        help="save and stop after this time; --resume goes on")
    if resume:
        parser.add_argument("--resume", nargs="?", const="last", metavar="CHECKPOINT",
                            help="go on from the model's last checkpoint, or from the one named")
        parser.add_argument("--weights", type=Path, metavar="FILE",
                            help="begin a new run from these weights (.npz, .pth.tar, .pth, .pt), "
                                 "with a new optimizer; default random ones")


def add_evaluation(parser: Flags) -> None:
    """--eval_every and --eval_last: after which epochs the test list is scored."""
    parser.add_argument("--eval_every", type=positive(int), default=1, metavar="N",
                        help="evaluate after every N epochs; default 1")
    parser.add_argument("--eval_last", type=positive(int), default=1, metavar="N",
                        help="evaluate after each of the last N epochs; default 1")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """An argparse type: a number of `kind` above zero."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} must be above zero")
        return value

    parse.__name__ = kind.__name__
    return parse


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 2**32 - 1")
    return value


def not_negative(text: str) -> int:
    """An argparse type: an integer from zero on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be below zero")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1")
    return value


def _factor(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 4:
        raise argparse.ArgumentTypeError(f"{text} must be from 1 to 4")
    return value


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to below 1")
    return value


def run(main: Callable[[], int | None], many: bool = False) -> NoReturn:
    """Runs a script's `main`; a UserError or a file's error is one line and exit status 2.

    Args:
        many: whether several ranks may run it together, by mpirun.
    """
    # A file's name may hold bytes that are no UTF-8: shown so, not a reason to stop.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow's: up to twice this size images are read, see `utils.data.images`.
    warnings.filterwarnings("ignore", "Image size .* decompression bomb")
    if not ranks.first():
        sys.stdout = sys.stderr = open(os.devnull, "w")
    status, line = 2, ""
    try:
        if ranks.size() > 1 and not many:
            raise UserError("mpirun is for train_device0.py and test.py; run this without it")
        status = main()
    except UserError as error:
        line = f"error: {error}"
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BrokenPipeError:  # `| head` has read enough
        if ranks.size() > 1:
            os._exit(1)
        sys.stderr.close()
        status = 0
    except OSError as error:  # no space, no permission: it names the file and the reason
        line = f"error: {error}"
    except Exception:
        if ranks.size() == 1:
            raise
        status, line = 1, traceback.format_exc()
    if line and ranks.size() > 1:
        _end_all(status, line)
    if line:
        print(line, file=sys.stderr)
    if status:
        ranks.gather(None)  # mpirun ends all when the first one ends so
    sys.exit(status)


def _end_all(status: int, line: str) -> NoReturn:
    """Says why, and leaves without a word to the other ranks, so that mpirun ends them.

    Not by `sys.exit`, in which MPI waits for them. An error that all have is told by the first.
    """
    if not ranks.first():
        time.sleep(5 + ranks.rank() / 8)  # mpirun takes a second, and more on a busy machine
        line += f" (rank {ranks.rank()} on {platform.node()})"
    print(line, file=sys.__stderr__, flush=True)
    sys.__stdout__.flush()
    os._exit(status)
