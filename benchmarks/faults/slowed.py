"""Runs a script in which writing takes long, so that many kills fall into it.

    python -m benchmarks.faults.slowed SEED train_device0.py ...
"""

from __future__ import annotations

import os
import random
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import cli

LONGEST = 0.15  # seconds of each pause


def slow_down(seed: int) -> None:
    """Pauses before, after and in the middle of writes of this process from now on."""
    rng = random.Random(seed)

    def pause() -> None:
        time.sleep(LONGEST * rng.random())

    def slowed(call: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            pause()
            result = call(*arguments, **options)
            pause()
            return result
        return slow

    def write_bytes(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            pause()
            file.write(data[len(data) // 2 :])

    os.replace, os.fsync, os.link = slowed(os.replace), slowed(os.fsync), slowed(os.link)
    Path.write_bytes = write_bytes
    Path.write_text = lambda path, text, encoding="utf-8", errors="strict": write_bytes(
        path, text.encode(encoding, errors))


if __name__ == "__main__":
    slow_down(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(cli.ROOT)
    runpy.run_path(str(cli.ROOT / sys.argv[0]), run_name="__main__")
