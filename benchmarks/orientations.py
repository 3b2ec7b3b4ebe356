"""Whether a dataset, and a network trained on it, know which way is up.

    python -m benchmarks.orientations                          # with the best weights there are
    python -m benchmarks.orientations --output_dir ELSEWHERE   # with those of a run elsewhere

First how far the brightness of the targets lies from the middle of their masks: an offset that is
the same everywhere can be learned, and points elsewhere in a flipped image. Then the scores of each
network on the test list as it is and turned, masks with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from benchmarks.table import print_head, print_row
from evaluation.pd_fa import find_regions
from utils import cli, runtime
from utils.checkpoint.pretrained import choose_weights
from utils.data.augment import turn
from utils.data.datasets import Split, load_split
from utils.errors import UserError
from utils.predict.maps import load_model
from utils.training.engine import evaluate

# What `turn` makes of an image, for 0, 1, 2, 3 and 4.
TURNS = ("as they are", "upside down", "left to right", "both", "transposed")
NEAR, FAR = 2, 5  # pixels around a target: its brightness lies in the first, then comes background
SQUARE = np.ones((3, 3))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the offset, and a table of scores."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], without_effect=("seed",))
    cli.add_batch_size(parser)
    args = parser.parse_args(argv)
    chosen = {name: choose_weights(args.output_dir, args.dataset_names[0], name)[0]
              for name in args.model_names}
    print(runtime.start(args.device, args.precision).describe())
    split = load_split(args.dataset_dir, args.dataset_names[0], "test", args.num_workers)
    print(split.describe())
    for name, weights in chosen.items():
        print(f"{name} with {weights}")
    offsets = brightness_offsets(split)
    if not len(offsets):
        raise UserError(f"{split.folder}: no bright target {FAR} pixels or more from the rims")
    error = offsets.std(axis=0) / len(offsets) ** 0.5
    for side, mean, spread in zip(("below", "right of"), offsets.mean(axis=0), error):
        print(f"brightness lies {mean:.3f} ± {spread:.3f} pixels {side} the middle of the masks, "
              f"{len(offsets)} targets")
    print_head("model", "images", "mIoU", "Pd", "Fa")
    for name, weights in chosen.items():
        net = load_model(name, weights)
        for orientation, label in enumerate(TURNS):
            scores = evaluate(net, turned(split, orientation), args.batch_size).compute()
            print_row(name, label, f"{scores['mIoU']:.4f}", f"{scores['Pd']:.4f}",
                      f"{scores['Fa']:.3g}")


def turned(split: Split, orientation: int) -> Split:
    """The same images and masks, each turned as `turn` says."""
    images, masks = ([turn(array, orientation) for array in arrays]
                     for arrays in (split.images, split.masks))
    return dataclasses.replace(split, images=images, masks=masks, levels={}, _resized={})


def brightness_offsets(split: Split) -> np.ndarray:
    """Rows and columns from the centroid of each mask to that of the brightness above background.

    Of targets that are brighter than the median of the ring around them, and not at a rim.

    Returns:
        N×2, in pixels: down and right are positive.
    """
    found = []
    for image, mask in zip(split.images, split.masks):
        targets = find_regions(mask > 0)
        boxes = ndimage.find_objects(targets.labels)
        for label, (box, middle) in enumerate(zip(boxes, targets.centroids), start=1):
            if any(side.start < FAR or side.stop + FAR > length
                   for side, length in zip(box, mask.shape)):
                continue
            window = tuple(slice(side.start - FAR, side.stop + FAR) for side in box)
            target = targets.labels[window] == label
            near, far = (ndimage.binary_dilation(target, SQUARE, steps) for steps in (NEAR, FAR))
            bright = image[window].astype(float)
            bright = np.clip(bright - np.median(bright[far & ~near]), 0, None) * near
            if bright.any():
                corner = [side.start for side in window]
                found.append(np.add(corner, ndimage.center_of_mass(bright)) - middle)
    return np.array(found).reshape(-1, 2)


if __name__ == "__main__":
    cli.run(main)
