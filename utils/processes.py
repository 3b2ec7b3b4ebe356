"""Runs one of the project's scripts from another script."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


def run(
    command: Sequence[str], cwd: str | Path | None = None
) -> tuple[int, int | None]:
    """Runs a command and waits for its end, also after Ctrl-C and SIGTERM: a training saves first.

    Args:
        command: the words of the command.
        cwd: the folder to run in; this process's by default.

    Returns:
        The exit status, and the signal that this process received meanwhile or None.
    """
    received: list[int] = []
    process = subprocess.Popen(command, cwd=cwd)

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGTERM or not _in_a_terminal():  # its Ctrl-C reaches the child too
            process.send_signal(number)

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status, received[0] if received else None


def end_by_sigterm() -> None:
    """Lets SIGTERM end this process as Ctrl-C does.

    Further ones are ignored: `timeout` and batch systems may send several.
    """
    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # Jittor ends its compiler processes by SIGTERM.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _in_a_terminal() -> bool:
    """True if this process is in the foreground of a terminal."""
    with contextlib.suppress(OSError, AttributeError, ValueError):  # no standard input
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False
