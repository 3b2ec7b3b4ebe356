"""Files as a power cut or a bad disk leaves them, and what is made of the rest."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from benchmarks.faults import scripts
from benchmarks.faults.trial import Tally, Trial
from utils import places


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _zeroed(data, rng):
    start = rng.randrange(len(data))  # pages that never came to the disk
    return data[:start] + bytes(len(data) - start)


def _all_zero(data, rng):
    return bytes(len(data))


def _empty(data, rng):
    return b""


WAYS = (_cut, _zeroed, _all_zero, _empty, None)  # None: the file is gone


def lose(folder: Path, seed: int, tries: int) -> Tally:
    """Damages last.npz, the log or both of a finished run, resumes it, and compares the end."""
    scripts.make_data(folder, seed)
    whole = folder / "whole"
    scripts.must(scripts.command(folder, scripts.TRAIN, whole))
    expected = scripts.contents(whole)
    rng, tally, output = random.Random(seed), Tally(), folder / "out"
    last = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL) / places.LAST
    for number in range(tries):
        shutil.copytree(whole, output)
        (log,) = places.log_folder(output).glob("*.txt")
        way = WAYS[(number // 3) % len(WAYS)]
        what = ((last,), (last, log), (log,))[number % 3]
        for path in what:
            _spoil(path, way, rng)
        result = scripts.run(scripts.command(folder, (*scripts.TRAIN, "--resume"), output))
        problem = scripts.differences(scripts.contents(output), expected)
        if result.returncode:
            problem = result.stderr[-300:]
        elif last in what and str(last) not in result.stdout:
            problem = "went on from before.npz without a word"
        tally.add(problem or "right", f"{' and '.join(path.name for path in what)}, {way}")
        shutil.rmtree(output)
    return tally


def lose_best(folder: Path, seed: int, tries: int) -> Tally:
    """Damages best.npz, or all that a run could go on from: refused by name, not guessed."""
    scripts.make_data(folder, seed)
    whole = folder / "whole"
    scripts.must(scripts.command(folder, scripts.TRAIN, whole))
    rng, tally, output = random.Random(seed), Tally(), folder / "out"
    run_folder = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL)
    for number in range(tries):
        shutil.copytree(whole, output)
        way = WAYS[(number // 2) % (len(WAYS) - 1)]
        names = (places.BEST,) if number % 2 else (places.LAST, places.BEFORE)
        for name in names:
            _spoil(run_folder / name, way, rng)
        script = ("test.py",) if number % 2 else (*scripts.TRAIN, "--resume")
        before = {path: path.read_bytes() for path in run_folder.iterdir()}
        result = scripts.run(scripts.command(folder, script, output))
        answer = scripts.refusal(result, *(run_folder / name for name in names))
        if before != {path: path.read_bytes() for path in run_folder.iterdir()}:
            answer = "changed the rest"
        tally.add(answer, f"{' and '.join(names)}, {way}")
        shutil.rmtree(output)
    return tally


def _spoil(path, way, rng):
    if way is None:
        path.unlink()
    else:
        path.write_bytes(way(path.read_bytes(), rng))


def trials() -> list[Trial]:
    """Those of this subject."""
    return [
        Trial("machine loss", "last.npz and log cut, zeroed, gone, then --resume", lose, 0, 6, 60),
        Trial("machine loss", "best.npz, or both of last.npz and before.npz", lose_best, 0, 4, 24),
    ]
