"""The command-line flags that the scripts have in common, and how a script ends."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import platform
import re
import signal
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
except UserError as error:  # here, because the imports below would end in a traceback
    environment.end_script(error)
    raise

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
    """Makes a parser with the flags common to all scripts, official spellings included.

    Args:
        doc: the script's docstring, shown by --help.
        default_models: the default of --model_name.
        any_model: True accepts other names than the four (predictions of another method).
        without_effect: names of the common flags that the script ignores, e.g. "seed"; --help
            lists them in a group of their own. "device" also moves --precision there.
    """
    doc = doc or ""  # python -OO
    module = re.search(r"python -m \S+", doc)  # else argparse would call it __main__.py
    parser = argparse.ArgumentParser(
        prog=module and module[0], description=doc, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    idle = parser.add_argument_group("accepted as in every script, but without effect here")

    def place(name: str) -> Flags:
        return idle if name in without_effect else parser

    place("model_names").add_argument(
        "--model_name", "--model_names", dest="model_names", default=list(default_models),
        nargs="+", choices=None if any_model else MODEL_NAMES,
        metavar="MODEL",
        help=f"one or more of {', '.join(MODEL_NAMES)}; default {' '.join(default_models)}",
    )
    place("dataset_names").add_argument(
        "--dataset_name", "--dataset_names", dest="dataset_names", default=[DATASET], nargs="+",
        type=dataset_name,
        metavar="DATASET", help=f"names of folders in --dataset_dir; default {DATASET}",
    )
    place("dataset_dir").add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", metavar="DIR",
        help="the folder that holds the datasets; default data",
    )
    place("output_dir").add_argument(
        "--output_dir", type=Path, default=ROOT, metavar="DIR",
        help="the folder for all that is written; default the project's folder",
    )
    add_device(place("device"))
    add_recipe(place("seed"), "seed")
    place("num_workers").add_argument(
        "--num_workers", "--threads", dest="num_workers", type=not_negative, default=4,
        metavar="N", help="threads that decode images; default 4",
    )
    return parser


def dataset_name(text: str) -> str:
    """An argparse type: the name of a folder, without the slash with which a shell completes it."""
    name = text.rstrip("/")
    if not name or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(
            f"{text}: must be a plain folder name; leave out '/' and a leading '.', and give the "
            "folder above it as --dataset_dir")
    return name


def add_skip_bad(parser: Flags) -> None:
    """Adds --skip_bad, for scripts that read a dataset."""
    parser.add_argument(
        "--skip_bad", action="store_const", const=True,
        help="leave out images and masks that cannot be used, and list them; without it they are "
        "an error",
    )


def add_device(parser: Flags, precision: str = "default") -> None:
    """Adds --device and --precision, for `runtime.start`."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto",
        help="auto, the default, takes a GPU that works, else the CPU",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=precision,
        help="on a GPU: `default` uses TF32 in convolutions, as PyTorch does; tf32 uses it in "
        "matrix products too; float32 never uses it. On a CPU with AVX512-BF16: bf16 predicts in "
        "bfloat16 between the first and the last layer. The default is `%(default)s`",
    )


def refuse_bf16(precision: str) -> None:
    """Raises a UserError for bf16, which is for predictions only; other scripts call this."""
    if precision == BF16:
        raise UserError("--precision bf16: is for predictions only (test.py); leave it out here")


def check_weights(weights: Path | None, model_names: Sequence[str]) -> None:
    """Raises a UserError for --weights with several models."""
    if weights and len(model_names) > 1:
        raise UserError(f"{weights}: weights are of one network; name one --model_name")


def add_threshold(parser: Flags) -> None:
    """Adds --threshold, above which a pixel counts as target."""
    from evaluation import THRESHOLD  # here: other scripts start without SciPy

    parser.add_argument(
        "--threshold", type=threshold, default=THRESHOLD, metavar="T",
        help=f"a pixel above it counts as target, 0 ≤ T < 1; default {THRESHOLD}",
    )


def add_fa(parser: Flags, text: str, **form: Any) -> None:
    """Adds --fa, a wanted rate of false alarms in pixels per pixel; `text` for --help."""
    parser.add_argument("--fa", type=rate, metavar="RATE", help=text, **form)


def add_pred(parser: argparse.ArgumentParser) -> None:
    """Adds --pred, folders of predictions.

    --model_name is then None if it is not given; see `prediction_files.prediction_folders`.
    """
    parser.set_defaults(model_names=None, default_models=parser.get_default("model_names"))
    parser.add_argument(
        "--pred", nargs="+", type=Path, metavar="DIR",
        help="one folder of predictions (NAME.mat, .npy or .png) per model, of any method, in the "
        "order of --model_name; without --model_name, folders name the models. Or one folder with "
        "a folder for each --model_name. A suffix that all names have is ignored. Default "
        "result/<dataset>/mat/<model>",
    )


def add_recipe(parser: Flags, *names: str, **defaults: Any) -> None:
    """Adds the flags for some fields of `Recipe`.

    Args:
        names: names of the fields.
        defaults: defaults of the flags. A flag without one is None if it is not given, so that
            `recipe.resolve_recipe` can take the value of the resumed run, or of `Recipe`.
    """
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for field in map(fields.get, names):
        spellings = filter(None, (f"--{field.name}", field.metadata["alias"]))
        default = defaults.get(field.name)
        shown = field.default if default is None else default
        parser.add_argument(*spellings, dest=field.name, default=default,
                            help=field.metadata["help"].format(default=shown), **_form(field))


def _form(field: dataclasses.Field) -> dict[str, Any]:
    """Argparse's options for a field of `Recipe`, by the type of its default."""
    if isinstance(field.default, bool):
        return {"action": "store_const", "const": True}
    kind = positive(float if isinstance(field.default, float) else int)
    form = {"type": RECIPE_NUMBERS.get(field.name, kind), "metavar": field.metadata["metavar"]}
    return {**form, "nargs": "*"} if field.default is None else form


def add_batch_size(parser: Flags) -> None:
    """Adds --batch_size, for scripts without a run to resume."""
    add_recipe(parser, "batch_size", batch_size=Recipe.batch_size)


def add_training(parser: Flags, resume: bool = True) -> None:
    """Adds the flags of training; without --resume and --weights if `resume` is False."""
    add_threshold(parser)
    parser.set_defaults(threshold=None)  # that of the resumed run, or the default
    add_skip_bad(parser)
    add_recipe(parser, *(name for name in FIELDS if name != "seed"))  # all scripts have --seed
    add_evaluation(parser)
    parser.add_argument("--stop_after", type=positive(float), metavar="MINUTES",
                        help="save and stop after this time; go on with --resume")
    if resume:
        parser.add_argument("--resume", nargs="?", const="last", metavar="CHECKPOINT",
                            help="go on from the model's last checkpoint, or from this one")
        parser.add_argument("--weights", type=Path, metavar="FILE",
                            help="begin a new run from these weights (.npz, .pth.tar, .pth, .pt), "
                                 "with a new optimizer; default random weights")


def add_evaluation(parser: Flags) -> None:
    """Adds --eval_every and --eval_last, which say when the test list is scored."""
    parser.add_argument("--eval_every", type=positive(int), default=1, metavar="N",
                        help="evaluate after every N epochs; default 1")
    parser.add_argument("--eval_last", type=positive(int), default=1, metavar="N",
                        help="evaluate after each of the last N epochs; default 1")


def number(
    kind: Callable[[str], float], fine: Callable[[float], bool], condition: str
) -> Callable[[str], float]:
    """Makes an argparse type: a number that is `fine`; else the error is "X must CONDITION"."""

    def parse(text: str) -> float:
        value = kind(text)
        if not fine(value):
            raise argparse.ArgumentTypeError(f"{text} must {condition}")
        return value

    parse.__name__ = kind.__name__  # argparse: invalid int value
    return parse


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Makes an argparse type: a number of `kind` above zero."""
    return number(kind, lambda value: 0 < value < float("inf"), "be above zero")


not_negative = number(int, lambda value: value >= 0, "not be below zero")
threshold = number(float, lambda value: 0 <= value < 1, "be from 0 to below 1")
rate = number(float, lambda value: 0 < value < 1, "be above 0 and below 1, e.g. 1e-6")
# Fields of Recipe whose numbers need not be above zero, or have other limits.
RECIPE_NUMBERS = {
    "seed": number(int, lambda value: 0 <= value < 2**32, "be from 0 to 2**32 - 1"),
    "image_size": not_negative, "crop": not_negative,
    "target_crops": number(float, lambda value: 0 <= value <= 1, "be from 0 to 1"),
    "scale": number(float, lambda value: 1 <= value <= 4, "be from 1 to 4"),
}


# Parts of Jittor's messages if a GPU or the machine has no memory left.
NO_MEMORY = ("memory is overflow", "Unable to alloc cuda", "cudaErrorMemoryAllocation",
             "CUDNN_STATUS_ALLOC_FAILED")


def run(main: Callable[[], int | None], many: bool = False) -> NoReturn:
    """Runs a script's `main` and exits.

    UserError, OSError and a lack of memory become one line and status 2.

    Args:
        many: True if mpirun may run the script.
    """
    # File names may hold bytes that are not UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow warns at half the largest size that `utils.data.images` reads, and of a damaged TIFF
    # before its error, which names the file.
    warnings.filterwarnings("ignore", "Image size .* decompression bomb|Corrupt EXIF data")
    if not ranks.is_main():
        sys.stdout = sys.stderr = open(os.devnull, "w")
    status, line = 2, ""
    try:
        if ranks.size() > 1 and not many:
            raise UserError(f"{Path(sys.argv[0]).name}: cannot run under mpirun, as only "
                            "train_device0.py and test.py can; start it without mpirun")
        status = main()
    except UserError as error:
        line = f"error: {error}"
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except BrokenPipeError:  # the reader, `| head` say, has ended
        if ranks.size() > 1:
            os._exit(1)
        sys.stderr.close()
        status = 128 + signal.SIGPIPE
    except OSError as error:  # no space, no permission
        line = f"error: {error}"
        if error.filename and error.strerror:
            line = (f"error: {error.filename}: {error.strerror}; check the path, its permissions "
                    "and the free space")
    except Exception as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            line = ("error: there is not enough memory; take a smaller --batch_size, or --tile "
                    "with test.py --input")
        elif ranks.size() == 1:
            raise
        else:
            status, line = 1, traceback.format_exc()
    if line and ranks.size() > 1:
        _end_all(status, line)
    if line:
        print(line, file=sys.stderr)
    if status:
        ranks.gather(None)  # wait for the others: mpirun ends all ranks when one fails
    sys.exit(status)


def _end_all(status: int, line: str) -> NoReturn:
    """Prints the error and ends this rank, so that mpirun ends the other ranks.

    Not by `sys.exit`, where MPI would wait for them. Only the first rank prints an error that all
    ranks have: mpirun ends the others while they sleep.
    """
    if not ranks.is_main():
        time.sleep(5 + ranks.rank() / 8)  # mpirun needs a second or more
        line += f" (rank {ranks.rank()} on {platform.node()})"
    print(line, file=sys.__stderr__, flush=True)
    sys.__stdout__.flush()
    os._exit(status)
