"""Two processes at one place: refused or correct, never mixed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.faults import scripts
from benchmarks.faults.trial import Tally, Trial
from utils import cli, places

# So long that the others have started before it ends.
LONG = (*scripts.TRAIN, "--epochs", "100", "--milestones", "50")


def train_twice(folder: Path, seed: int, tries: int) -> Tally:
    """Starts a second training, and predicts and converts, while one trains (slowed)."""
    scripts.make_data(folder, seed)
    scripts.must(scripts.command(folder, LONG, folder / "whole"))
    expected = scripts.contents(folder / "whole")
    tally = Tally()
    for number in range(tries):
        output = folder / f"out{number}"
        run_folder = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL)
        slowed = seed + number, folder / "mark"
        with subprocess.Popen(scripts.command(folder, LONG, output, slowed), cwd=cli.ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as first:
            for line in first.stdout:
                if line.startswith("epoch 1/"):
                    break
            second = subprocess.Popen(
                scripts.command(folder, (*LONG, *("--resume",) * (number % 2)), output),
                cwd=cli.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            predicted = scripts.run(scripts.command(folder, ("test.py",), output))
            said, errors = second.communicate()
            first.stdout.read()
        result = subprocess.CompletedProcess((), second.returncode, said, errors)
        tally.add(scripts.refusal(result, run_folder), "the second training")
        tally.add("right" if predicted.returncode == 0 else predicted.stderr[-300:], "test.py")
        left = {name: value for name, value in scripts.contents(output).items()
                if not name.startswith("result") and "earlier_" not in name}
        tally.add(scripts.differences(left, expected) or "right", "the first training")
    return tally


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
        Trial("two at once", "two trainings into one folder, test.py while it trains", train_twice,
              0, 2, 10),
        Trial("two at once", "first starts of Jittor in an empty cache", start_twice, 0, 0, 1),
    ]
