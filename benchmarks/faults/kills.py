"""SIGKILL at random moments of scripts whose writes are slowed, and the same command again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import scripts
from benchmarks.faults.slowed import OTHERWISE
from benchmarks.faults.trial import Tally, Trial
from utils import cli, places

A_RUN = 8  # so many kills at most fall into one run, before it may end
STARTED = "Running on "  # what a script prints once Jittor is there


def killed(words: Sequence[str], begins: str, seconds: float) -> bool:
    """Starts a command and kills it and all its children so long after a line that begins so.

    Returns:
        False if it ended before by itself; whoever measured the seconds did so on busier cores.
    """
    process = subprocess.Popen(words, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    with process:
        _wait_for_line(process, begins)
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
    return not ended


def duration(words: Sequence[str], begins: str) -> float:
    """Seconds from the line that begins so to the end of a command."""
    with subprocess.Popen(words, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:
        _wait_for_line(process, begins)
        began = time.monotonic()
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {process.returncode}")
    return time.monotonic() - began


def _wait_for_line(process, begins):
    """At once without one."""
    if begins:
        next((line for line in process.stdout if line.startswith(begins)), None)


def kill_training(folder: Path, seed: int, tries: int, script: str = "train_device0.py") -> Tally:
    """Kills and resumes trainings until so many were killed; their ends equal that of one whole."""
    scripts.make_data(folder, seed)
    rng, tally, fell = random.Random(seed), Tally(), Counter()
    scripts.must(scripts.command(folder, scripts.TRAIN, folder / "whole"))
    whole = scripts.contents(folder / "whole")
    mark, output = folder / "mark", folder / "out"
    length = duration(scripts.command(folder, scripts.TRAIN, folder / "slow", (seed, mark)),
                      STARTED)
    while tally.tries < tries:
        kills, problem = 0, ""
        while kills < min(A_RUN, tries - tally.tries) and not problem:
            training = scripts.resumed(folder, output)
            if script == "run_train.py":  # which resumes by itself
                training = (script, *scripts.TRAIN[1:])
            slowed = rng.randrange(2**31), mark
            if not killed(scripts.command(folder, training, output, slowed), STARTED,
                          rng.uniform(0, length)):
                length *= 1 if kills else 0.9
                break
            kills += 1
            problem = _half_a_file(output)
            _count(fell, mark, output)
        last = scripts.command(folder, scripts.resumed(folder, output), output)
        problem = problem or _end(last, output, whole)
        for _ in range(kills):
            tally.add(problem or "right",
                      f"{script}, {kills} kills, {dict(fell)}")
        shutil.rmtree(output)
    tally.note = _described(fell)
    return tally


def kill_others(folder: Path, seed: int, tries: int) -> Tally:
    """Kills scripts that predict, score and convert, then runs them again to their end."""
    scripts.make_data(folder, seed)
    output, mark = folder / "out", folder / "mark"
    scripts.must(scripts.command(folder, scripts.TRAIN, output))
    best = places.checkpoint_folder(output, scripts.DATASET, scripts.MODEL) / places.BEST
    rng, tally, fell, steps = random.Random(seed), Tally(), Counter(), []
    for script in (["test.py"], ["cal_metrics.py"], ["convert_weights.py", str(best),
                                                     str(output / "best.pth.tar")]):
        state = folder / f"before_{script[0]}"
        shutil.copytree(output, state)
        length = duration(scripts.command(folder, script, output, (seed, mark)), "")
        steps.append([script, state, scripts.contents(output), length])
    shutil.rmtree(output)
    while tally.tries < tries:
        step = steps[tally.tries % len(steps)]
        script, state, whole, length = step
        shutil.copytree(state, output)
        slowed = rng.randrange(2**31), mark
        # Their last part writes; all before is reading and Jittor's start.
        if killed(scripts.command(folder, script, output, slowed), "",
                  length * rng.uniform(0.3, 1)):
            _count(fell, mark, output)
            problem = _half_a_file(output, scripts.contents(state), whole) or _end(
                scripts.command(folder, script, output), output, whole)
            tally.add(problem or "right", script[0])
        else:
            step[3] = 0.9 * length
        shutil.rmtree(output)
    tally.note = _described(fell)
    return tally


def _half_a_file(output: Path, *known: dict) -> str:
    """Which file below a folder is not whole, or in none of these contents; "" if all are fine."""
    try:
        now = scripts.contents(output)
    except Exception as error:  # whatever a half-written file makes its reader raise
        return f"half a file ({error})"
    unknown = [name for name in now if known and now[name] not in [one.get(name) for one in known]]
    return f"{unknown[0]} is neither the old nor the new one" if unknown else ""


def _end(words: Sequence[str], output: Path, whole: dict) -> str:
    """Runs a command to its end; what is wrong then, "" if all is as it was to be."""
    result = scripts.run(words)
    if result.returncode:
        return f"exit {result.returncode}, {result.stderr[-300:]}"
    return scripts.differences(scripts.contents(output), whole)


def _count(fell, mark, output):
    """What the script was about when it was killed, and whether it left a temporary file."""
    fell[mark.read_text().strip()] += 1
    fell["left"] += any(path.name.startswith(".") for path in output.rglob("*.*"))


def _described(fell):
    left = fell.pop("left", 0)
    places = ", ".join(f"{count} in {what}" if what != OTHERWISE else f"{count} {what}"
                       for what, count in sorted(fell.items()))
    return f"{places}; {left} left a file unfinished"


def trials() -> list[Trial]:
    """Those of this subject."""
    return [
        Trial("kills", "train_device0.py, then --resume", kill_training, 2, 20, 200),
        Trial("kills", "run_train.py, then again", lambda folder, seed, tries: kill_training(
            folder, seed, tries, "run_train.py"), 0, 4, 40),
        Trial("kills", "test.py, cal_metrics.py, convert_weights.py, then again", kill_others,
              0, 6, 90),
    ]
