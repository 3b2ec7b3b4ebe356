"""Draws a visual comparison: image, ground truth and several models' predictions side by side.

    python qualitative.py --names 000001 000124 000563
    python qualitative.py --model_name L2SKNet_UNet L2SKNet_1D_UNet
    python qualitative.py --pred result/NUDT-SIRST/mat/L2SKNet_UNet /data/ACM/NUDT-SIRST
    python qualitative.py --kernels --model_name L2SKNet_UNet --names 000316

Takes predictions where cal_metrics.py does. Detections are circled, an inset zooms in. Writes
result/<dataset>_qualitative.png and .pdf.

--kernels draws instead what the LLSKMs of each model see. It needs no predictions, and takes the
weights that test.py takes. Writes result/<dataset>_<model>_stages.png and .pdf, the maps before and
after each contrast stage, the responses of its branches and their theta; and
result/<dataset>_<model>_kernels.png and .pdf, the kernels of each branch at theta of the first
image. --device and --precision are for it alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from model import MODEL_NAMES
from utils import cli, runtime
from utils.checkpoint.pretrained import choose_weights
from utils.data.lists import image_of, spellings
from utils.datasets import ImageList, load_split
from utils.errors import UserError, listed
from utils.paths import Paths
from utils.predict.prediction_files import prediction_folders
from utils.report.kernels import save_kernels
from utils.report.panels import detection_figure, read_examples, some_rows


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    args = parse(argv)
    draw = draw_kernels if args.kernels else draw_predictions
    print("written:", *draw(args), sep="\n  ")


def draw_predictions(args: argparse.Namespace) -> list[Path]:
    """Draws images, ground truth and predictions; returns the files written."""
    found = prediction_folders(args.output_dir, args.dataset_names, args.model_names,
                               args.default_models, args.pred)
    written: list[Path] = []
    for dataset_name, folders in found.items():
        split = read_split(args, dataset_name)
        rows = rows_of(split, args.names) if args.names else some_rows(split)
        shown = read_examples(split, folders, rows)
        paths = Paths(args.output_dir).qualitative(dataset_name)
        detection_figure(paths, shown, args.threshold)
        written += paths
    return written


def draw_kernels(args: argparse.Namespace) -> list[Path]:
    """Draws the contrast stages and the kernels of each model; returns the files written.

    Raises:
        UserError: an unknown model or image, no weights, or weights that do not fit.
    """
    cli.refuse_bf16(args.precision)
    models = args.model_names or args.default_models
    unknown = [name for name in models if name not in MODEL_NAMES]
    if unknown:
        raise UserError(f"--model_name {listed(unknown)}: not a network of this project; name one "
                        f"of {', '.join(MODEL_NAMES)}")
    cli.check_weights(args.weights, models)
    jobs = []
    for dataset_name in args.dataset_names:
        weights = {model: args.weights or choose_weights(args.output_dir, dataset_name, model)[0]
                   for model in models}
        split = read_split(args, dataset_name)
        rows = rows_of(split, args.names) if args.names else some_rows(split)[:1]
        jobs += [(split, rows, model, path) for model, path in weights.items()]
    print(runtime.start(args.device, args.precision).describe())
    written = []
    for split, rows, model, path in jobs:
        print(f"{split.dataset}: {model} with {path}")
        written += save_kernels(args.output_dir, split, rows, model, path)
    return written


def read_split(args: argparse.Namespace, dataset_name: str) -> ImageList:
    """The test list of a dataset; prints a line about it."""
    split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                       skip_bad=args.skip_bad)
    print(split.describe())
    return split


def rows_of(split: ImageList, names: Sequence[str]) -> list[int]:
    """Indices of the names in a split; a name may have its extension.

    Raises:
        UserError: one is not in it.
    """
    known = spellings(split.names)
    found = [image_of(name, known, "") for name in names]
    unknown = [name for name, image in zip(names, found) if image is None]
    if unknown:
        raise UserError(f"--names {listed(unknown)}: not in the test list of {split.dataset}; "
                        "choose names from that list")
    return [split.names.index(image) for image in found]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the flags; a flag that another one leaves without effect is refused."""
    parser = cli.make_parser(__doc__, any_model=True, without_effect=("seed",))
    cli.add_threshold(parser)
    cli.add_pred(parser)
    cli.add_skip_bad(parser)
    parser.add_argument("--names", nargs="+", metavar="NAME",
                        help="images to draw, by their names in the test list; default: four "
                             "images with a target, with --kernels one")
    parser.add_argument("--kernels", action="store_true",
                        help="draw the responses of the contrast stages and the LLSKM kernels in "
                             "place of predictions")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="with --kernels: an .npz, or a checkpoint of PyTorch or Jittor; "
                             "default the best weights of the training run, else those that come "
                             "with the project")
    args = parser.parse_args(argv)
    for flag in ("pred", "threshold") if args.kernels else ("weights",):
        if getattr(args, flag) is not parser.get_default(flag):
            parser.error(f"--{flag} does not go {'with' if args.kernels else 'without'} --kernels")
    return args


if __name__ == "__main__":
    cli.run(main)
