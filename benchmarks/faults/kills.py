"""SIGKILL at random moments of scripts whose writes are slowed, and the same command again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import scripts
from benchmarks.faults.trial import Tally, Trial
from utils import cli

A_RUN = 8  # so many kills at most fall into one run, before it may end


def killed(words: Sequence[str], begins: str, seconds: float) -> bool:
    """Starts a command and kills it and all its children so long after a line that begins so.

    Returns:
        False if it ended before by itself.
    """
    process = subprocess.Popen(words, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    with process:
        for line in process.stdout:
            if line.startswith(begins):
                break
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
    began = time.monotonic()
    with subprocess.Popen(words, cwd=cli.ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:
        for line in process.stdout:
            if line.startswith(begins):
                began = time.monotonic()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {process.returncode}")
    return time.monotonic() - began


def kill_training(folder: Path, seed: int, tries: int, script: str = "train_device0.py") -> Tally:
    """Kills and resumes trainings until so many were killed; their ends equal that of one whole."""
    scripts.make_data(folder, seed)
    rng, tally = random.Random(seed), Tally()
    begins = f"{scripts.MODEL} on "
    scripts.must(scripts.command(folder, scripts.TRAIN, folder / "whole"))
    whole = scripts.contents(folder / "whole")
    length = duration(scripts.command(folder, scripts.TRAIN, folder / "slow", seed), begins)
    moments, leftovers, output = [], 0, folder / "out"
    while tally.tries < tries:
        kills, problem = 0, ""
        while kills < min(A_RUN, tries - tally.tries) and not problem:
            training = scripts.resumed(folder, output)
            if script == "run_train.py":  # which resumes by itself
                training = (script, *scripts.TRAIN[1:])
            moment = rng.uniform(0, length)
            if not killed(scripts.command(folder, training, output, rng.randrange(2**31)), begins,
                          moment):
                break
            kills += 1
            moments.append(moment / length)
            leftovers += sum(path.name.startswith(".") for path in output.rglob("*.*"))
            try:
                scripts.contents(output)
            except Exception as error:  # whatever a half-written file makes its reader raise
                problem = f"half a file after kill {kills} ({error})"
        scripts.must(scripts.command(folder, scripts.resumed(folder, output), output))
        problem = problem or scripts.differences(scripts.contents(output), whole)
        for _ in range(kills):
            tally.add("right" if not problem else f"differs: {problem}", f"{script}, {kills} kills")
        shutil.rmtree(output)
    tally.note = (f"at {min(moments):.0%} to {max(moments):.0%} of a run, {leftovers} of them in "
                  "the middle of a file")
    return tally


def kill_others(folder: Path, seed: int, tries: int) -> Tally:
    """Kills scripts that predict, score and convert, then runs them again to their end."""
    scripts.make_data(folder, seed)
    start = folder / "start"
    scripts.must(scripts.command(folder, scripts.TRAIN, start))
    best = scripts.places.checkpoint_folder(start, scripts.DATASET, scripts.MODEL) / "best.npz"
    rng, tally = random.Random(seed), Tally()
    steps = []
    for script in (["test.py"], ["cal_metrics.py"], ["convert_weights.py", str(best)]):
        state = folder / f"before_{script[0]}"
        shutil.copytree(start, state)
        words = [*script, str(start / "out.pth.tar")] if len(script) == 2 else script
        length = duration(scripts.command(folder, words, start, seed), "")
        steps.append((script, state, scripts.contents(start), length))
    while tally.tries < tries:
        script, state, whole, length = steps[tally.tries % len(steps)]
        output = folder / "out"
        shutil.copytree(state, output)
        words = [*script, str(output / "out.pth.tar")] if len(script) == 2 else script
        # Their last part writes; all before is reading and Jittor's start.
        was_killed = killed(scripts.command(folder, words, output, rng.randrange(2**31)), "",
                            length * rng.uniform(0.3, 1))
        problem = ""
        try:
            now, before = scripts.contents(output), scripts.contents(state)
            for name in now:
                if now[name] not in (whole.get(name), before.get(name)):
                    problem = f"{name} is neither the old nor the new one"
        except Exception as error:  # whatever a half-written file makes its reader raise
            problem = f"half a file ({error})"
        scripts.must(scripts.command(folder, words, output))
        problem = problem or scripts.differences(scripts.contents(output), whole)
        tally.add(problem or "right", f"{script[0]}{'' if was_killed else ', at its end'}")
        shutil.rmtree(output)
    return tally


def trials() -> list[Trial]:
    """Those of this subject."""
    return [
        Trial("kills", "train_device0.py, then --resume", kill_training, 0, 16, 200),
        Trial("kills", "run_train.py, then again", lambda folder, seed, tries: kill_training(
            folder, seed, tries, "run_train.py"), 0, 4, 30),
        Trial("kills", "test.py, cal_metrics.py, convert_weights.py, then again", kill_others,
              0, 6, 90),
    ]
