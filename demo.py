"""Does everything once, in small: trains the four networks, tests, scores and draws.

    python3 demo.py

Takes at most 15 minutes. Makes the environment in `.venv/` first. Uses pieces of a few images of
data/NUDT-SIRST if it is there, else sample images, and writes only below demo/. A second run trains
only what is missing; remove demo/ to begin again.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.data.writing import Sample
    from utils.datasets import ImageList

# Small enough for a quarter of an hour on two cores, in which Jittor also compiles itself.
N_TRAIN, N_TEST, SIZE = 64, 24, 64
TRAINING = ["--image_size", SIZE, "--batch_size", 8, "--epochs", 30, "--lr", 5e-3]
DETECTIONS, ROWS = "detections.png", 5  # the picture of detections, and its rows


def main(argv: "list[str] | None" = None) -> int:
    """Runs the project's scripts one after the other, and prints each command line."""
    import argparse
    import time

    from utils.paths import Paths

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto, the default, takes a GPU that works, else the CPU")
    args = parser.parse_args(argv)
    began = time.monotonic()
    root = Path(environment.ROOT)
    demo = root / "demo"
    dataset = make_dataset(root / "data", demo / "data")
    common = ["--dataset_dir", "demo/data", "--dataset_name", dataset, "--output_dir", "demo"]
    device = ["--device", args.device]
    run("run_train.py", *common, *device, *TRAINING)
    run("run_evaluate.py", *common, *device)
    run("loss_curves.py", *common)
    draw_detections(demo, dataset)

    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Look at:")
    for pattern, what in (
        (DETECTIONS, "what the networks found, on images of the test list"),
        (Paths("").page("*"), "everything about the scores on one page"),
        (Paths("").table("*")[0], "the scores"),
        (Paths("").loss_curves("*") / "*.png", "the course of training"),
        (Paths("").logs / "*.txt", "the logs"),
    ):
        for path in sorted(demo.glob(str(pattern))):
            print(f"  {str(path.relative_to(root)):<58} {what}")
    if dataset == "SAMPLE":
        print("These images are synthetic. For the real thing put the dataset in data/NUDT-SIRST "
              "(README.md says where it is) and run: .venv/bin/python run_train.py")
    return 0


def make_dataset(real: Path, folder: Path) -> str:
    """Writes the demo's dataset if it does not exist; returns its name.

    Args:
        real: the folder that may hold NUDT-SIRST.
        folder: the folder to write into.
    """
    from utils.data.synthetic import write_sample_dataset
    from utils.data.writing import write_dataset
    from utils.datasets import load_splits

    if not (real / "NUDT-SIRST").is_dir():
        if not (folder / "SAMPLE").is_dir():
            print(f"No {real / 'NUDT-SIRST'}: writing sample images to {folder / 'SAMPLE'}")
            write_sample_dataset(folder / "SAMPLE", N_TRAIN, N_TEST, SIZE)
        return "SAMPLE"
    subset = folder / "NUDT-SIRST-subset"
    if not subset.is_dir():
        print(f"Copying pieces of {N_TRAIN} + {N_TEST} images of NUDT-SIRST to {subset}")
        train, test = load_splits(real, "NUDT-SIRST")
        write_dataset(subset, {"train": pieces(train, N_TRAIN), "test": pieces(test, N_TEST)})
    return subset.name


def pieces(split: "ImageList", count: int) -> "Iterator[Sample]":
    """Yields a piece with a target from each of the first images of a list."""
    import numpy as np

    for i in [i for i, mask in enumerate(split.masks) if mask.any()][:count]:
        # The cell of a grid that holds the target's first pixel, so not always its middle.
        corner = np.argwhere(split.masks[i])[0] // SIZE * SIZE
        starts = (max(0, min(c, n - SIZE)) for c, n in zip(corner, split.masks[i].shape))
        cell = tuple(slice(start, start + SIZE) for start in starts)
        yield split.names[i], split.images[i][cell], split.masks[i][cell]


def draw_detections(demo: Path, dataset: str) -> None:
    """Draws demo/detections.png from the predictions that run_evaluate.py has written."""
    from model import MODEL_NAMES
    from utils.datasets import load_split
    from utils.paths import Paths, PredictionPaths
    from utils.report.panels import detection_figure, read_examples

    test = load_split(demo / "data", dataset, "test")
    rows = [i for i, mask in enumerate(test.masks) if mask.any()][:ROWS]
    folder = Paths(demo).predictions(dataset)
    folders = {model: PredictionPaths(folder, model).mat for model in MODEL_NAMES}
    detection_figure([demo / DETECTIONS], read_examples(test, folders, rows))


def run(script: str, *arguments: object) -> None:
    """Shows and runs one of the project's scripts; raises UserError if it fails."""
    import shlex

    from utils import processes
    from utils.errors import UserError

    words = [script, *map(str, arguments)]
    print("\n$ python " + " ".join(map(shlex.quote, words)), flush=True)
    status, received = processes.run([sys.executable, *words], cwd=environment.ROOT)
    if received:
        raise KeyboardInterrupt
    if status:
        raise UserError(f"{script} ended with status {status}, see above; "
                        "correct that, then `python3 demo.py` goes on from here")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(main())
    environment.reexec()
    from utils import cli

    cli.run(main)
