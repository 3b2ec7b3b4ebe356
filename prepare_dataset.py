"""Brings a dataset as it was downloaded into data/NAME/, and reports what is in it.

    python prepare_dataset.py ~/Downloads/IRSTD-1k.zip --name IRSTD-1K
    python prepare_dataset.py /data/sirst --name NUAA-SIRST --copy --fit_masks
    python prepare_dataset.py /data/VOC --name Mine --images JPEGImages --masks SegmentationClass
    python prepare_dataset.py /data/mixed --name Mine --images . --mask_suffix _mask
    python prepare_dataset.py /data/frames --name Mine --images . --masks_from boxes.json
    python prepare_dataset.py data/NUDT-SIRST data/NUAA-SIRST my_frames --name REAL   # joins them

SOURCE is a folder or a .zip: NUDT-SIRST, IRSTD-1K, NUAA-SIRST, SIRST-Aug, SIRST3, IRDST, or another
dataset with such a layout (utils/data/layouts.py). For other layouts, name the folders and suffixes
with --images, --masks, --image_suffix and --mask_suffix. The new folder has images/NAME,
masks/NAME, train.txt, test.txt and the report, prepared.txt: sizes, names of masks, masks with grey
values, number of targets brighter or darker than their surroundings, images in both lists,
duplicates, pairs left out and the reasons. Missing lists are drawn with --split and --seed.
Files are linked, so SOURCE must stay; the files of a zip are copied.

Several SOURCEs become one dataset, to train on all of them. Each is prepared with these flags, its
images' names begin with its name (NUDT-SIRST_000001), and the lists are joined. A source without a
test list, or with all of its images on its train list, adds to train.txt only. --masks_from takes
one SOURCE: prepare each source that has boxes by itself first.

--masks_from makes the masks from boxes: of a COCO .json, or of a folder of COCO .json, YOLO .txt or
VOC .xml, in SOURCE or elsewhere. COCO's keypoints are points on targets. Every class counts as
target; an image without boxes has no target. docs/usage.md, "Masks from boxes", has the rule and
its accuracy. --images is then images/ by default.

--boxes also writes the targets as boxes in COCO's format, for annotation tools and box detectors:
result/<NAME>_train_boxes.json and result/<NAME>_test_boxes.json. If SOURCE is data/NAME itself,
only these two files are written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from utils import cli, processes
from utils.data.decoding import EXTENSIONS
from utils.data.find import Given
from utils.data.join import join
from utils.data.prepare import prepare
from utils.datasets import load_splits
from utils.errors import UserError
from utils.files import write_text
from utils.paths import Paths
from utils.predict.detections import mask_boxes
from utils.recipe import Recipe

FRACTION = cli.number(float, lambda value: 0 < value < 1, "lie between 0 and 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    parser = cli.make_parser(
        __doc__, without_effect=("model_names", "dataset_names", "device"))
    parser.add_argument("source", type=Path, metavar="SOURCE", nargs="+",
                        help="a folder, or a .zip; several are joined")
    parser.add_argument("--name", required=True, type=cli.dataset_name,
                        help="the name of the new folder in --dataset_dir")
    parser.add_argument("--copy", action="store_true", help="copy the files; default: link them")
    parser.add_argument("--split", type=FRACTION, default=0.5, metavar="SHARE",
                        help="fraction of images for training, if there are no lists; default 0.5")
    parser.add_argument("--images", type=Path, metavar="DIR",
                        help="folder of images in SOURCE; default by SOURCE's layout")
    parser.add_argument("--masks", type=Path, metavar="DIR",
                        help="folder of masks in SOURCE; default the folder of --images")
    parser.add_argument("--image_suffix", type=_suffix, default="", metavar="S",
                        help="ending of image files: _ir if the list has 0001 and the file is "
                             "0001_ir.png")
    parser.add_argument("--mask_suffix", type=_suffix, metavar="S",
                        help="ending of mask files, in the same way; by default any of the usual "
                             "endings, e.g. _pixels0 or _mask")
    parser.add_argument("--fit_masks", action="store_true",
                        help="resize masks of another size to their image (nearest neighbour), if "
                             "the ratio of the sides agrees")
    parser.add_argument("--boxes", action="store_true", help="write the targets as boxes too")
    parser.add_argument("--masks_from", type=Path, metavar="PATH",
                        help="COCO .json, or folder of YOLO .txt or VOC .xml, to make masks from")
    args = parser.parse_args(argv)
    if args.masks_from and (args.masks or args.fit_masks or args.mask_suffix):
        raise UserError(f"--masks_from {args.masks_from}: makes the masks; leave out --masks, "
                        "--mask_suffix and --fit_masks")
    if args.masks_from and len(args.source) > 1:
        raise UserError(f"--masks_from {args.masks_from}: is for one SOURCE; prepare each source "
                        f"that has boxes by itself, and join the results in {args.dataset_dir}/")
    if args.masks and not args.images:
        raise UserError(f"--masks {args.masks}: needs a folder of images too; name it with "
                        "--images")
    target = args.dataset_dir / args.name
    seed = Recipe.seed if args.seed is None else args.seed

    first, *others = args.source  # several are joined
    given = Given(args.images, args.masks, args.image_suffix, args.mask_suffix,
                args.masks_from)

    def bring(source: Path, place: Path) -> str:
        return prepare(source, place, args.copy, args.split, seed, args.num_workers, given,
                       args.fit_masks, make_test=not others)

    is_target = not others and first.exists() and target.exists() and target.samefile(first)
    if not (is_target and args.boxes):
        print(join(args.source, target, bring) if others else bring(first, target), end="")
        print(f"{target}: ready; train with --dataset_name {args.name}")
    if args.boxes:
        write_boxes(args)


def write_boxes(args: argparse.Namespace) -> None:
    """Writes the targets of both lists as boxes in COCO's format."""
    for split in load_splits(args.dataset_dir, args.name, num_workers=args.num_workers):
        found = mask_boxes(split)
        path = Paths(args.output_dir).boxes(args.name, split.name)
        write_text(path, json.dumps(found))
        print(f"{path}: {len(found['annotations'])} boxes in {len(found['images'])} images")


def _suffix(text: str) -> str:
    stem, dot, extension = text.rpartition(".")
    return stem if dot + extension.lower() in EXTENSIONS else text


if __name__ == "__main__":
    processes.end_by_sigterm()  # so that no work folder stays
    cli.run(main)
