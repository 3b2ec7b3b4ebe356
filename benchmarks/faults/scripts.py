"""The real scripts on small made-up data, and whether two of their results are equal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from benchmarks.faults.trial import one_line_about
from utils import cli, places
from utils.checkpoint.weights import read_checkpoint
from utils.data.synthetic import write_sample_dataset

MODEL, DATASET, EPOCHS = "L2SKNet_1D_FPN", "Tiny", 4
TRAIN = ("train_device0.py", "--batch_size", "2", "--image_size", "32", "--epochs", str(EPOCHS),
         "--lr", "1e-2")  # so high that the mIoU jumps: best.npz is not always the last or first
SECONDS = 600  # after which a script counts as hanging
_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d")


def make_data(folder: Path, seed: int) -> None:
    """Writes the dataset into folder/data."""
    write_sample_dataset(folder / "data" / DATASET, 6, 3, 32, seed)


def command(folder: Path, script: Sequence[str], output: Path,
            slowed: tuple[int, Path] | None = None) -> list[str]:
    """A script's command line; `slowed`: seed and mark of `slowed.py`, which slows its writes."""
    name, *flags = script
    start = [] if slowed is None else ["-m", "benchmarks.faults.slowed", *map(str, slowed)]
    if name != "convert_weights.py":
        flags = ["--dataset_dir", str(folder / "data"), "--output_dir", str(output),
                 "--dataset_name", DATASET, "--model_name", MODEL, "--device", "cpu", *flags]
        if name == "cal_metrics.py":
            flags = [flag for flag in flags if flag not in ("--device", "cpu")]
    return [sys.executable, "-u", *start, name, *flags]


def run(words: Sequence[str]) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    return subprocess.run(words, cwd=cli.ROOT, capture_output=True, text=True, timeout=SECONDS)


def must(words: Sequence[str]) -> str:
    """Runs a command that has no reason to fail; returns what it printed."""
    result = run(words)
    if result.returncode:
        raise RuntimeError(f"{' '.join(words)}: {result.stderr[-500:]}")
    return result.stdout


def resumed(folder: Path, output: Path) -> tuple[str, ...]:
    """The training that goes on with what is in `output`, or begins."""
    run_folder = places.checkpoint_folder(output, DATASET, MODEL)
    names = (places.LAST, places.BEFORE)
    return (*TRAIN, "--resume") if any((run_folder / name).exists() for name in names) else TRAIN


def refusal(result: subprocess.CompletedProcess, *names: object) -> str:
    """"refused" if a script ended with one line that names one of these, else what it said."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if (result.returncode == 2 and len(lines) == 1 and one_line_about(lines[0], *names)
            and "Traceback" not in result.stderr and result.stderr.endswith(f"{lines[0]}\n")):
        return "refused"
    return f"exit {result.returncode}, {result.stderr[-300:]!r}"


def content(path: Path) -> Any:
    """What a file holds, times of day left out; raises if it is not whole."""
    if path.suffix == ".npz":
        arrays, meta = read_checkpoint(path)
        arrays.pop("meta", None)
        records = [{**record, "time": ""} for record in meta.pop("history", ())]
        return {name: array.tobytes() for name, array in arrays.items()}, records, {
            **meta, "started": ""}
    if path.suffix == ".mat":
        return {name: np.asarray(array).tobytes() for name, array in loadmat(path).items()
                if not name.startswith("__")}
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            return image.size, image.tobytes()
    if path.suffix == ".pdf":
        return path.read_bytes().rstrip().endswith(b"%%EOF")
    if path.suffix in (".txt", ".csv", ".md"):
        return _STAMP.sub("", path.read_text())
    return path.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    """Name → content of all files below a folder but the temporary ones, and `before.npz`.

    Of several that differ in the time in their names the last.
    """
    return {_STAMP.sub("", str(path.relative_to(folder))): content(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.name != places.BEFORE}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Which files differ, "" if none."""
    names = sorted(name for name in ours.keys() | theirs.keys()
                   if ours.get(name) != theirs.get(name))
    return ", ".join(names[:3])
