"""Requests to stop a run: by Ctrl-C, by SIGTERM, or by the clock."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from utils.runtime import ranks

SAME = 10  # seconds


class StopRequest:
    """Records Ctrl-C, SIGTERM and the end of the given time.

    A signal that comes more than `SAME` seconds after the first ends the process. Until then it may
    be the same request: `timeout` and batch systems signal the script that started this one too,
    which passes the signal on, and Python handles a signal only when a step has ended.

    Under mpirun a request to one rank stops all ranks. SIGUSR1 is a request too there, because
    mpirun passes it on and does not end the ranks itself.

    A context manager: its end restores the former signal handlers.

    Args:
        minutes: the time given; None: no end.
    """

    def __init__(self, minutes: float | None = None):
        self.signals = [signal.SIGINT, signal.SIGTERM]
        if ranks.size() > 1:
            self.signals.append(signal.SIGUSR1)
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.signal: int | None = None
        self.signalled: float | None = None  # when this process received its first signal

    def __enter__(self) -> StopRequest:
        self.before = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signalled is None:
            self.signal, self.signalled = number, time.monotonic()
        elif time.monotonic() - self.signalled > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def requested(self) -> bool:
        """True if the run is to stop; all ranks call this together and get one answer."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        asked, late = zip(*ranks.gather((self.signal or 0, late)))
        self.signal = self.signal or max(asked) or None
        return any(asked) or any(late)

    @property
    def status(self) -> int:
        """The exit status: 128 + signal, or 0 if the time was over."""
        return 128 + self.signal if self.signal else 0
