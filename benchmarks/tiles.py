"""What tiles change: scores of the same network on whole frames and on overlapping tiles.

    python -m benchmarks.tiles --model_name L2SKNet_UNet --tile 128 --images 100

Over the first images of the test list, with the best weights of the training run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from evaluation import Evaluator
from utils import cli, runtime
from utils.checkpoint.weights import find_weights
from utils.data import to_float
from utils.datasets import load_split
from utils.errors import UserError
from utils.predict import load_model, predict, predict_tiles


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the scores of each network."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"], without_effect=("seed",))
    parser.add_argument("--tile", type=cli.positive(int), default=128, help="default 128")
    parser.add_argument("--images", type=cli.positive(int), default=100, help="default 100")
    args = parser.parse_args(argv)
    print(runtime.start(args.device, args.precision).describe())
    split = load_split(args.dataset_dir, args.dataset_names[0], "test", args.num_workers)
    pairs = list(zip(split.images, split.masks))[: args.images]
    print(f"{len(pairs)} images of {split.dataset}, tiles of {args.tile}")
    for name in args.model_names:
        weights = find_weights(args.output_dir, split.dataset, name)
        if weights is None:
            raise UserError(f"{name} is not trained on {split.dataset}")
        print(f"{name} with {weights}")
        measure(load_model(name, weights), pairs, args.tile)


def measure(
    net: runtime.jt.Module, pairs: Sequence[tuple[np.ndarray, np.ndarray]], tile: int
) -> None:
    """Prints the scores of both ways, and how far their probabilities are apart."""
    whole, tiled = Evaluator(), Evaluator()
    far, flipped, pixels = 0, 0, 0
    for image, mask in tqdm(pairs, unit="image", disable=None):
        x = to_float(image)
        a, b = predict(net, x[None, None])[0], predict_tiles(net, x, tile)
        whole.update(a, mask)
        tiled.update(b, mask)
        pixels += a.size
        far += int((np.abs(a - b) > 0.1).sum())
        flipped += int(((a > 0.5) != (b > 0.5)).sum())
    for label, evaluator in (("whole", whole), ("tiles", tiled)):
        scores = evaluator.compute()["strict"]
        scores["mIoU"] = evaluator.compute()["mIoU"]
        line = "  ".join(f"{key} {scores[key]:.4g}" for key in ("mIoU", "Pd", "Fa"))
        print(f"  {label}: {line}", flush=True)
    print(f"  probabilities more than 0.1 apart: {far / pixels:.2e} of the pixels; "
          f"on the other side of 0.5: {flipped / pixels:.2e}")


if __name__ == "__main__":
    cli.run(main)
