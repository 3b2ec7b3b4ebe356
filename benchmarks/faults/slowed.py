"""Runs a script in which evaluating and writing take long, so that many kills fall into them.

    python -m benchmarks.faults.slowed SEED MARK train_device0.py ...

The file MARK says at any time what it is about.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import random
import re
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults import scripts
from evaluation import Evaluator
from utils import cli, processes

LONGEST = 0.15  # seconds of each pause
OURS = (".npz", ".tar", ".txt", ".mat", ".png", ".pdf", ".csv", ".md")  # not those of Jittor
OTHERWISE = "training, or reading"  # what a script is about where nothing is slowed


def slow_down(seed: int, mark: str) -> None:
    """From now on this process, and the training that it starts, pauses where it matters.

    In the middle of every file, before and after it takes another's place, before it is flushed,
    and at every image that is scored.

    Args:
        seed: of the lengths of the pauses.
        mark: the file that says what is being done: "evaluation", a `kind` of file, or neither.
    """
    rng = random.Random(seed)
    descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT)
    doing = [OTHERWISE]

    @contextlib.contextmanager
    def during(what: str) -> Iterator[Callable[[], None]]:
        doing.append(what)
        say()
        try:
            yield lambda: time.sleep(LONGEST * rng.random())
        finally:
            doing.pop()
            say()

    def say() -> None:
        os.pwrite(descriptor, doing[-1].ljust(80).encode(), 0)

    class InHalves(io.FileIO):
        writes = 0

        def write(self, data: Any) -> int:
            data = memoryview(data).cast("B")
            self.writes += 1
            with during(kind(self.name)) as pause:
                first = super().write(data[: len(data) // 2])
                if rng.random() * self.writes < 1:  # of hundreds some
                    pause()
                return first + super().write(data[first:])

    def slow_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        ours = isinstance(file, (str, Path)) and str(file).endswith(OURS)
        if not (ours and set(mode) & set("wx")):
            return really_open(file, mode, buffering, encoding, errors, newline, **more)
        raw = InHalves(str(file), re.sub("[bt]", "", mode))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def slowed(call: Callable[..., Any], what: Callable[..., str]) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            with during(what(*arguments)) as pause:
                pause()
                result = call(*arguments, **options)
                pause()
            return result
        return slow

    def start(command: list[str], cwd: str | None = None) -> tuple[int, int | None]:
        python, *script = command
        return really_start([python, "-u", "-m", "benchmarks.faults.slowed", str(seed), mark,
                             *script], cwd)

    really_open, really_start = io.open, processes.run
    builtins.open = io.open = Path.open = slow_open
    processes.run = start
    os.replace = slowed(os.replace, lambda _, target: kind(target))
    os.link = slowed(os.link, lambda _, target: kind(target))
    os.fsync = slowed(os.fsync, lambda file: kind(os.readlink(f"/proc/self/fd/{file}")))
    Evaluator.update = slowed(Evaluator.update, lambda *_: "evaluation")
    say()


def kind(path: str | Path) -> str:
    """What a file or folder of a run is, by its own name or the temporary one."""
    name = Path(path).name
    if name == "log" or name.endswith(".txt"):
        return "log"
    return "checkpoint" if name.endswith((".npz", scripts.MODEL)) else "result"


if __name__ == "__main__":
    slow_down(int(sys.argv[1]), sys.argv[2])
    sys.argv = sys.argv[3:]
    sys.path[0] = str(cli.ROOT)
    runpy.run_path(str(cli.ROOT / sys.argv[0]), run_name="__main__")
