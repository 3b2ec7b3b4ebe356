"""Brings a dataset as it was downloaded into data/NAME/, and reports what is in it.

    python prepare_dataset.py ~/Downloads/IRSTD-1k.zip --name IRSTD-1K
    python prepare_dataset.py /data/sirst --name NUAA-SIRST --copy

SOURCE is a folder or a .zip: NUDT-SIRST, IRSTD-1K, NUAA-SIRST, SIRST-Aug, SIRST3, and others of
their layouts (utils/data/layouts.py). The new folder has images/NAME, masks/NAME, train.txt,
test.txt and prepared.txt, the report: sizes, how masks are named, masks with grey values, images in
both lists, duplicates, and the pairs that are left out and why. Where there are no lists they are
drawn by --split and --seed. Files are linked, so SOURCE must stay; those of a zip are copied.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.data.prepare import prepare
from utils.errors import UserError
from utils.recipe import Recipe


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with the arguments given, those of the command line by default."""
    parser = cli.make_parser(
        __doc__, without_effect=("model_names", "dataset_names", "output_dir", "device"))
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder, or a .zip")
    parser.add_argument("--name", required=True, help="of the new folder below --dataset_dir")
    parser.add_argument("--copy", action="store_true", help="copy the files; default: link them")
    parser.add_argument("--split", type=_share, default=0.5, metavar="SHARE",
                        help="where there are no lists: the share of images that is for training; "
                             "default 0.5")
    args = parser.parse_args(argv)
    if not args.name or Path(args.name).name != args.name or args.name.startswith("."):
        raise UserError(f"--name {args.name}: is the name of a folder, without / and leading dot")
    target = args.dataset_dir / args.name
    seed = Recipe.seed if args.seed is None else args.seed
    print(prepare(args.source, target, args.copy, args.split, seed, args.num_workers), end="")
    print(f"{target}: ready; train with --dataset_name {args.name}")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


if __name__ == "__main__":
    cli.run(main)
