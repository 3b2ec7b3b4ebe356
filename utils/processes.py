"""Running one of the project's scripts from another."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


def run(
    command: Sequence[str], cwd: str | Path | None = None
) -> tuple[int, int | None]:
    """Runs a command to its end, which Ctrl-C and SIGTERM hasten but do not cut off.

    A training saves its work when it is asked to stop, so it is waited for.

    Args:
        command: its words.
        cwd: the folder it runs in; this process's by default.

    Returns:
        Its exit status, and the signal that this process received meanwhile or None.
    """
    received: list[int] = []
    process = subprocess.Popen(command, cwd=cwd)

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the whole process group by itself
            process.terminate()

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, received[0] if received else None
