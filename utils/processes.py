"""Running one of the project's scripts from another."""

from __future__ import annotations

import signal
import subprocess


def run(command, cwd=None):
    """Runs a command to its end, which Ctrl-C and SIGTERM hasten but do not cut off.

    A training saves its work when it is asked to stop, so it is waited for.

    Args:
        command: list of words.

    Returns:
        Its exit status, and the signal that this process received meanwhile or None.
    """
    received = []
    process = subprocess.Popen(command, cwd=cwd)

    def handle(number, _):
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
