"""The memory of long runs: its slope, once all has been seen."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import linregress

from benchmarks.faults import scripts
from benchmarks.faults.trial import Tally, Trial
from utils import cli, places
from utils.data.synthetic import make_sample

SIZES = 24  # different ones among the frames
PARTS = 8  # of the second half
ALLOWED = 0.01  # growth over the second half, as a part of the memory at its beginning


def watched(words: Sequence[str], progress: Callable[[], int]) -> list[tuple[int, int]]:
    """Runs a command; returns (progress, its own bytes in memory), about ten a second.

    Raises:
        RuntimeError: the command fails.
    """
    seen = []
    with subprocess.Popen(words, cwd=cli.ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            # Not the pages of files, which the system takes away and gives back as it likes.
            found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            if found:
                seen.append((progress(), 1024 * int(found[0])))
            time.sleep(0.1)
        errors = process.stderr.read()
    if process.returncode:
        raise RuntimeError(errors[-500:])
    return seen


def judged(seen: Sequence[tuple[int, int]], total: int, unit: str) -> Tally:
    """The slope over the second half, from the means of its parts, and whether it is flat."""
    late = np.array([point for point in seen if point[0] >= total / 2], float)
    parts = np.array([part.mean(0) for part in np.array_split(late, PARTS)])
    fit = linregress(*parts.T)
    tally = Tally(note=f"{parts[0, 1] / 1e6:.0f} MB, {fit.slope / 1e3:+.1f} ± "
                       f"{fit.stderr / 1e3:.1f} kB per {unit} over the second half of {total:,}")
    grows = fit.slope > 2 * fit.stderr and fit.slope * total / 2 > ALLOWED * parts[0, 1]
    tally.add("grows" if grows else "right", tally.note)
    return tally


def frames(folder: Path, seed: int, tries: int) -> Tally:
    """Predicts so many frames of mixed sizes with test.py --input."""
    rng = np.random.default_rng(seed)
    (folder / "in").mkdir()
    sizes = rng.integers(32, 97, (SIZES, 2))
    samples = [make_sample(*map(int, size), rng)[0] for size in sizes]
    for number in range(tries):
        Image.fromarray(samples[rng.integers(SIZES)]).save(folder / "in" / f"{number:05d}.png")
    written = places.mat_folder(folder / "out", "L2SKNet_UNet")
    # So high that nothing is found: the list of what is found, which is kept, grows.
    words = [sys.executable, "test.py", "--input", str(folder / "in"), "--threshold", "0.999999",
             "--output", str(folder / "out"), "--device", "cpu"]
    seen = watched(words, lambda: len(list(written.glob("*.mat"))))
    return judged(seen, tries, "frame")


def epochs(folder: Path, seed: int, tries: int) -> Tally:
    """Trains for so many epochs."""
    scripts.make_data(folder, seed)
    words = [str(tries) if before == "--epochs" else word for before, word in zip(
        ("", *scripts.TRAIN), scripts.TRAIN)]

    def progress():
        logs = list(places.log_folder(folder / "out").glob("Tiny*.txt"))
        return logs[0].read_text().count("Epoch---") if logs else 0

    return judged(watched(scripts.command(folder, words, folder / "out"), progress), tries,
                  "epoch")


def trials() -> list[Trial]:
    """Those of this subject; the tries are frames and epochs."""
    return [Trial("memory", "test.py --input, frames of mixed sizes", frames, 0, 200, 2000),
            Trial("memory", "train_device0.py", epochs, 0, 20, 50)]
