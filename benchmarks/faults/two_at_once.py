"""Two processes at one place: refused or correct, never mixed."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import scripts
from benchmarks.faults.kills import STARTED, duration
from benchmarks.faults.trial import Tally, Trial
from utils import cli, places

# So long that the others have started before it ends.
LONG = (*scripts.TRAIN, "--epochs", "12", "--milestones", "6")
PRETRAINED = "weights that come with the project"  # says test.py where nothing is trained yet


def train_twice(folder: Path, seed: int, tries: int) -> Tally:
    """Starts a second training, and test.py, at a random moment of a slowed training.

    Both trainings are refused or end as one alone does; predictions are those of the weights of one
    epoch, all of them.
    """
    scripts.make_data(folder, seed)
    rng, tally, mark = random.Random(seed), Tally(), folder / "mark"
    scripts.must(scripts.command(folder, LONG, folder / "whole"))
    expected = scripts.contents(folder / "whole")
    length = duration(scripts.command(folder, LONG, folder / "slow", (seed, mark)), STARTED)
    during = 0
    for number in range(tries):
        output, kept = folder / f"out{number}", folder / f"kept{number}"
        run_folder = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL)
        # Every third time the second one starts with the first.
        moment = 0.0 if number % 3 == 2 else rng.uniform(0, length)
        with _every_version(run_folder / places.BEST, kept):
            first = _start(scripts.command(folder, LONG, output, (rng.randrange(2**31), mark)))
            if moment:
                next((line for line in first.stdout if line.startswith(STARTED)), None)
                time.sleep(moment)
            second = _start(scripts.command(
                folder, (*LONG, *("--resume",) * (number % 2)), output))
            predicted = scripts.run(scripts.command(folder, ("test.py",), output))
            predictions = scripts.contents(output / "result")
            during += first.poll() is None
            results = [_end(first), _end(second)]
        answers = ["right" if result.returncode == 0 else scripts.refusal(
            result, run_folder) for result in results]
        for name, answer in zip(("the first training", "the second"), answers):
            both = answers == ["refused"] * 2
            tally.add("refused, as the other was" if both else answer, name)
        left = {name: value for name, value in scripts.contents(output).items()
                if not name.startswith("result") and "earlier_" not in name}
        tally.add(scripts.differences(left, expected) or "right", "what they left")
        if predicted.returncode:
            answer = scripts.refusal(predicted, run_folder, f"not trained on {scripts.DATASET}")
        elif PRETRAINED in predicted.stdout:
            answer = "right"
        else:
            answer = "right" if predictions in _predictions(folder, kept) else "mixed"
        tally.add(answer, f"test.py {moment:.1f} s after the start")
    tally.note = f"{during} of {tries} predicted while the first still trained"
    return tally


def _start(words):
    return subprocess.Popen(words, cwd=cli.ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def _end(process):
    said, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


@contextlib.contextmanager
def _every_version(path: Path, kept: Path) -> Iterator[None]:
    """Keeps each file that takes the name `path` meanwhile."""
    kept.mkdir()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            with contextlib.suppress(OSError):  # not there yet, or kept already
                os.link(path, kept / f"{path.stat().st_ino}_{path.stat().st_mtime_ns}{path.suffix}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _predictions(folder: Path, kept: Path) -> list[dict[str, Any]]:
    """What test.py makes of each of the weights kept."""
    found = []
    for path in kept.iterdir():
        output = kept / path.stem
        scripts.must(scripts.command(folder, ("test.py", "--weights", str(path)), output))
        found.append(scripts.contents(output / "result"))
    return found


def start_twice(folder: Path, seed: int, tries: int) -> Tally:
    """Starts Jittor for the first time in two processes at once, in an empty cache."""
    tally = Tally()
    code = "from utils.runtime import jt, start; start('cpu'); print((jt.ones(3) + 1).sum().item())"
    for number in range(tries):
        home = folder / str(number)
        home.mkdir()
        both = [subprocess.Popen([sys.executable, "-c", code], cwd=cli.ROOT, text=True,
                                 env={**os.environ, "JITTOR_HOME": str(home)},
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        for process in both:
            said, errors = process.communicate()
            fine = said.strip().endswith("6.0") and not process.returncode
            tally.add("right" if fine else f"exit {process.returncode}, {errors[-300:]}", "start")
    return tally


def trials() -> list[Trial]:
    """Those of this subject."""
    return [
        Trial("two at once", "two trainings into one folder, test.py while they train", train_twice,
              0, 3, 15),
        Trial("two at once", "first starts of Jittor in an empty cache", start_twice, 0, 0, 1),
    ]
