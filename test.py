"""Predicts the test list of a dataset, or any image or folder of images.

    python test.py --model_name L2SKNet_UNet --dataset_name NUDT-SIRST
    python test.py --model_name L2SKNet_UNet --input my_frames/

Writes result/<dataset>/img/<model>/NAME.png (0-255) and result/<dataset>/mat/<model>/NAME.mat
(key T, float32 probabilities). The weights are --weights, else the best of the training run on this
dataset, else the weights that come with the project (model/pretrained/). With --input and
without --dataset_name the dataset is REAL if there are weights for it, else NUDT-SIRST.

With --input: any size up to 179 megapixels and any depth, no masks needed, TIFFs of several pages
too (the results of page 3 of stack.tif are called stack_0003). Images in folders below the folder
are taken too: NAME and file then begin with these folders. A masks/ beside images/ is left out.
<dataset> is the name of the file or folder; if result/<dataset> holds results of another input of
this name, that is refused. --output names a folder in place of it, for any input. Beside img/ and
mat/ it gets

    overlay/<model>/NAME.png     the image with the detections circled, the strongest enlarged
    detections/<model>.csv       one row per detection: file, x, y, x_min, y_min, x_max, y_max,
                                 area, peak
    detections/<model>.json      the same detections by image; images without detections too
    detections/<model>.coco.json with --boxes coco: images, categories and annotations, which COCO
                                 tools read as results; each annotation has a score and a centroid

A clip (.mp4, .avi, .mkv, .mov ...) is read frame by frame, if PyAV is installed (pip install -r
requirements-video.txt). NAME is the index of the frame, from 000000; the lists give frame and time
(in seconds) beside file. --overlay_video writes overlay/<model>.mp4.

A detection is an 8-connected region of probabilities above --threshold, or above the threshold for
the rate of false alarms in --fa, which is known for weights whose card (FILE.md beside FILE.npz)
has a table of cal_metrics.py --fa. Coordinates are pixels, x to the right and y down, the centre of
the top left pixel is (0, 0); x, y is the centroid, the bounding box includes its outermost pixels.
Images that cannot be read are named at the end, with exit status 2; the others are done.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils import cli, processes, runtime
from utils.checkpoint.pretrained import choose_weights, dataset_for_own_images, threshold_for
from utils.data.images import input_name
from utils.data.sources import ImageSource
from utils.data.video import ClipSource, is_clip
from utils.datasets import load_split
from utils.errors import UserError
from utils.paths import Paths
from utils.predict import predict_split
from utils.predict.frames import THRESHOLD, FrameOptions, predict_frames, refuse_mixing
from utils.predict.memory import check_memory
from utils.runtime import ranks

TILE = cli.number(int, lambda side: side >= 64, "be at least 64")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script with `argv`, by default the arguments of the command line."""
    args = parse(argv)
    if args.input:
        predict_own_images(args)
    else:
        predict_test_lists(args)


def predict_test_lists(args: argparse.Namespace) -> None:
    """Predicts the test list of each dataset with each model."""
    weights = {dataset_name: weights_of(args, [dataset_name], dataset_name)
               for dataset_name in args.dataset_names or [cli.DATASET]}
    print(runtime.start(args.device, args.precision).describe())
    for dataset_name, chosen in weights.items():
        split = load_split(args.dataset_dir, dataset_name, "test", args.num_workers,
                           masks_required=False, skip_bad=args.skip_bad)
        folder = Paths(args.output_dir).predictions(dataset_name)
        for model_name, path in chosen.items():
            print(f"{split.describe()}, {model_name} with {path}, to {folder}")
            predict_split(model_name, path, split, args.output_dir, args.batch_size,
                          ranks.subset())


def predict_own_images(args: argparse.Namespace) -> None:
    """Predicts the images of --input with each model.

    Raises:
        UserError: no image, too little memory, or images that cannot be read (others are done).
    """
    weights = weights_of(args, args.dataset_names, "the images of --input")
    source = ClipSource(args.input) if is_clip(args.input) else ImageSource(args.input)
    if args.overlay_video and not source.rate:
        raise UserError(f"{args.input}: no clip; leave out --overlay_video")
    if args.overlay_video and ranks.size() > 1:
        raise UserError("--overlay_video: one process writes it; leave out mpirun")
    thresholds = {model_name: threshold_of(args, path) for model_name, path in weights.items()}
    folder = args.output or Paths(args.output_dir).predictions(input_name(args.input))
    refuse_mixing(folder, args.model_names, None if args.output else args.input)
    run = runtime.start(args.device, args.precision)
    print(run.describe())
    if run.device == "cpu":
        print(f"{args.input}: {check_memory(source.sizes(), args.model_names, args.tile)}")
    outcomes = []
    for model_name, path in weights.items():
        options = FrameOptions(thresholds[model_name], args.tile, args.stretch,
                               not args.no_overlay, args.overlay_video, args.boxes == "coco",
                               args.num_workers)
        print(f"{args.input}, {model_name} with {path}, to {folder}")
        if args.fa:
            print(f"threshold {options.threshold}, for a Fa of {args.fa:g} by "
                  f"{path.with_suffix('.md')}")
        outcomes.append(predict_frames(model_name, path, source, folder, options))
        print(outcomes[-1].describe())
    for outcome in outcomes:
        outcome.check()


def threshold_of(args: argparse.Namespace, weights: Path) -> float:
    """The threshold of --threshold, or the one of --fa from the card of the weights."""
    if args.fa:
        return threshold_for(weights, args.fa)
    return THRESHOLD if args.threshold is None else args.threshold


def weights_of(
    args: argparse.Namespace, dataset_names: Sequence[str] | None, images: str
) -> dict[str, Path]:
    """Model → file of weights; prints a line if a model was not trained here on `images`.

    Args:
        dataset_names: the first is the dataset of the weights; None chooses it for each model.
    """
    if args.weights:
        return dict.fromkeys(args.model_names, args.weights)
    weights = {}
    for model_name in args.model_names:
        dataset_name = (dataset_names[0] if dataset_names else
                        dataset_for_own_images(args.output_dir, model_name))
        path, trained = choose_weights(args.output_dir, dataset_name, model_name)
        weights[model_name] = path
        if not trained:
            print(f"{model_name}: not trained here on {images}; taking the weights that come with "
                  f"the project, trained on {path.parent.name}")
    return weights


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the flags; flags for own images are refused without --input."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], without_effect=("seed",))
    cli.add_batch_size(parser)
    cli.add_skip_bad(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="an .npz, or a checkpoint of PyTorch or Jittor; default the best "
                             "weights of the training run")
    own = parser.add_argument_group("own images")
    own.add_argument("--input", type=Path, metavar="FILE_OR_FOLDER",
                     help="predict these images, or this clip, instead of a test list; no "
                          "masks needed")
    own.add_argument("--output", type=Path, metavar="DIR",
                     help="where the results go; default result/<name of the file or folder>")
    either = own.add_mutually_exclusive_group()
    cli.add_threshold(either)
    cli.add_fa(either, "in place of --threshold: the threshold for this rate of false alarms (in "
               "pixels per pixel, e.g. 1e-6) by the card of the weights, measured on a test list")
    own.add_argument("--stretch", action="store_true",
                     help="spread the grey levels of each image (0.01 to 99.99 percentile) over "
                          "0..1, for 10- to 14-bit data in 16-bit files and for temperatures in "
                          "TIFFs of any numbers; default: divide 8-bit files by 255 and 16-bit "
                          "files by 65535")
    own.add_argument("--no_overlay", action="store_true", help="write no overlays")
    own.add_argument("--overlay_video", action="store_true",
                     help="also write the overlays of a clip as a clip, overlay/<model>.mp4")
    own.add_argument("--boxes", choices=("coco",),
                     help="also write the detections in this format")
    own.add_argument("--tile", type=TILE, metavar="N",
                     help="predict tiles of NxN pixels that overlap by a quarter, if the memory is "
                          "too small for whole frames. The map differs from the map of the whole "
                          "frame: the attention theta is a statistic of all that the network sees "
                          "at once")
    parser.set_defaults(threshold=None, dataset_names=None)
    args = parser.parse_args(argv)
    cli.check_weights(args.weights, args.model_names)
    for flag in ("skip_bad", "batch_size") if args.input else (
            "output", "threshold", "fa", "stretch", "no_overlay", "overlay_video", "boxes", "tile"):
        if getattr(args, flag) is not parser.get_default(flag):
            parser.error(f"--{flag} {'does not go' if args.input else 'goes'} with --input")
    if args.input and args.dataset_names and args.dataset_names[1:]:
        parser.error("--dataset_name: names the weights for --input; give one")
    return args


if __name__ == "__main__":
    processes.end_by_sigterm()  # which keeps what was found until then
    cli.run(main, many=True)
