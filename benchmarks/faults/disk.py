"""A disk that is full, read-only or gone while a training writes."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults import scripts
from benchmarks.faults.trial import Tally, Trial
from utils import cli, places


def fill(folder: Path, seed: int, tries: int) -> Tally:
    """Trains onto a file system of random size, makes room, resumes, and compares the end.

    As root a small tmpfs; else the largest size that a file may have stands in for it.
    """
    scripts.make_data(folder, seed)
    scripts.must(scripts.command(folder, scripts.TRAIN, folder / "whole"))
    expected = scripts.contents(folder / "whole")
    used = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
    rng, tally, full = random.Random(seed), Tally(), 0
    for number in range(tries):
        output = folder / f"out{number}"
        size = rng.randrange(2**16, int(1.3 * used))
        words = scripts.command(folder, scripts.TRAIN, output)
        with _small_disk(output, size) as (limit, enlarge):
            result = subprocess.run(words, cwd=cli.ROOT, capture_output=True, text=True,
                                    preexec_fn=limit, timeout=scripts.SECONDS)
            answer = "refused"
            if result.returncode:
                full += 1
                answer = scripts.refusal(result, output)
            enlarge()
            again = scripts.run(scripts.command(folder, scripts.resumed(folder, output), output))
            problem = again.stderr[-300:] if again.returncode else scripts.differences(
                scripts.contents(output), expected)
            if not problem and answer == "refused":
                tally.add("refused" if result.returncode else "right")
            else:
                tally.add(problem or answer, f"{size} bytes")
    tally.note = note(full, tally)
    return tally


def note(full: int, tally: Tally) -> str:
    """What is said beside the counts, where the disk was full in so many tries."""
    resumed = tally.right + tally.refused
    return f"full in {full} of {tally.tries}, {resumed} resumed to the digit"


@contextlib.contextmanager
def _small_disk(output: Path, size: int) -> Iterator[tuple]:
    """A folder in which so many bytes have room: what limits the child, and what makes room."""
    output.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", str(output)]
    mounted = not os.getuid() and not subprocess.run(options, capture_output=True).returncode

    def limit():
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))

    def enlarge():
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(output)], check=True)

    try:
        yield limit, enlarge
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(output)], check=True)


def take_away(folder: Path, seed: int, tries: int) -> Tally:
    """Makes the output read-only (root only) or removes it while a training writes there."""
    scripts.make_data(folder, seed)
    scripts.must(scripts.command(folder, scripts.TRAIN, folder / "whole"))
    expected = scripts.contents(folder / "whole")
    tally = Tally()
    for number in range(tries):
        output = folder / f"out{number}"
        with _small_disk(output, 2**30):
            gone = number % 2 == 1 or not os.path.ismount(output)
            answer = _train_while(folder, output, gone)
            problem = ""
            if not gone:
                subprocess.run(["mount", "-o", "remount,rw", str(output)], check=True)
            if answer in ("refused", "right"):
                scripts.must(scripts.command(folder, scripts.resumed(folder, output), output))
                problem = scripts.differences(scripts.contents(output), expected)
                if gone:  # what was removed cannot be there; the last must be
                    problem = "" if scripts.contents(output) else "nothing was written"
            tally.add(problem or answer, "removed" if gone else "read-only")
    return tally


def _train_while(folder, output, gone):
    """Trains, takes the output away after the first epoch; what the training came to."""
    words = scripts.command(folder, scripts.TRAIN, output)
    errors = folder / "errors.txt"
    with open(errors, "w") as file, subprocess.Popen(
        words, cwd=cli.ROOT, stdout=subprocess.PIPE, stderr=file, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        if gone:
            for child in list(output.iterdir()):
                shutil.rmtree(child, ignore_errors=True)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(output)], check=True)
        process.stdout.read()
    result = subprocess.CompletedProcess(words, process.returncode, "", errors.read_text())
    run_folder = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL)
    if not process.returncode and gone and (run_folder / places.LAST).is_file():
        return "right"
    return scripts.refusal(result, output)


def trials() -> list[Trial]:
    """Those of this subject."""
    return [
        Trial("disk", "full at a random byte, then --resume", fill, 0, 4, 40),
        Trial("disk", "read-only or removed while a training writes", take_away, 0, 2, 10),
    ]
