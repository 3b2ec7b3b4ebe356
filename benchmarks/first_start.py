"""The newcomer's wait: what each of the first commands takes while Jittor has compiled nothing yet.

    python -m benchmarks.first_start                   from nothing to the detections in 12 frames
    python -m benchmarks.first_start --training        and a first training step with its test
    python -m benchmarks.first_start --home ~/somewhere   in a home that stays

Runs the real command lines on synthetic frames, in a JITTOR_HOME of their own. The seconds of all
processors say how much there was to compile, also on a machine that has other things to do.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import NO_DATASET, seconds_of
from utils import cli, environment
from utils.data.synthetic import write_sample_dataset
from utils.errors import UserError
from utils.report.tables import print_head, print_row

N_TRAIN, N_TEST, SIZE = 8, 4, 256


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = cli.make_parser(__doc__, default_models=["L2SKNet_UNet"],
                             without_effect=NO_DATASET)
    parser.add_argument("--home", type=Path, help="JITTOR_HOME; default: a new one, removed after")
    parser.add_argument("--training", action="store_true", help="a training step as well")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = args.home or folder / "home"
        write_sample_dataset(folder / "data" / "SAMPLE", N_TRAIN, N_TEST, SIZE)
        print_head("stage", "seconds", "of all processors")
        for stage, command in stages(folder, args.model_names[0], args.device, args.precision,
                                     args.training):
            measure(stage, command, home)


def stages(
    folder: Path, model: str, device: str, precision: str, training: bool
) -> Iterator[tuple[str, list[str]]]:
    """What is done, and its command line, which reads and writes below `folder`."""
    flags = ["--model_name", model, "--device", device, "--precision", precision]
    predict = ["test.py", *flags, "--input", str(folder / "data" / "SAMPLE" / "images"),
               "--output", str(folder / "found")]
    start = f"from utils.runtime import start; start({device!r}, {precision!r})"
    yield "Jittor's core", ["-c", start]
    yield "first prediction, its operators", predict
    yield "second prediction", predict
    if training:
        yield "first training step and test", [
            "train_device0.py", *flags, "--epochs", "1", "--image_size", str(SIZE),
            "--dataset_dir", str(folder / "data"), "--dataset_name", "SAMPLE",
            "--output_dir", str(folder)]


def measure(stage: str, command: Sequence[str], home: Path) -> None:
    """Runs Python with these arguments and prints the row of the table.

    Raises:
        UserError: the command failed.
    """
    run = None
    home.mkdir(parents=True, exist_ok=True)

    def call():
        nonlocal run
        run = subprocess.run([sys.executable, *command], cwd=environment.ROOT, text=True,
                             env={**os.environ, "JITTOR_HOME": str(home)}, capture_output=True)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = seconds_of(call)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise UserError(f"{' '.join(command)} failed: {run.stderr.strip().splitlines()[-1]}")
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print_row(stage, f"{seconds:.1f}", f"{work:.1f}")


if __name__ == "__main__":
    cli.run(main)
