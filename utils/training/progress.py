"""What a training run prints after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from utils.training.logs import EpochRecord


class Pace:
    """Measures how long steps and evaluations take, and estimates the rest of a run.

    Args:
        steps: number of steps in an epoch.
    """

    def __init__(self, steps: int):
        self.steps, self.evaluation = steps, 0.0
        self.step: float | None = None  # not measured yet
        self.marks: list[tuple[float, int]] = []  # time, and number of finished steps

    def begin(self, done: int) -> None:
        """Marks the start of an epoch, or of its rest after `done` steps."""
        self.marks = []
        self.steps_done(done)

    def steps_done(self, done: int) -> None:
        """Marks the time at which `done` steps of the epoch were finished."""
        self.marks.append((time.monotonic(), done))

    def epoch_done(self, evaluated: bool) -> None:
        """Computes the times from the marks; `evaluated`: an evaluation followed the last step."""
        times, steps = np.array(self.marks, float).T
        if len(times) > 1:
            # The first step compiles, and a resumed epoch lacks some: neither moves the median.
            self.step = float(np.median(np.diff(times) / np.diff(steps)))
        if evaluated:
            self.evaluation = time.monotonic() - times[-1]

    def left(self, done: int, epochs: int, evaluates: Callable[[int, int], bool]) -> float | None:
        """Seconds for the epochs after `done`; evaluations count 0 until one was measured.

        Returns:
            None if no step was measured: a run resumed after the last step of an epoch.
        """
        if self.step is None:
            return None
        evaluations = sum(evaluates(epoch, epochs) for epoch in range(done + 1, epochs + 1))
        return (epochs - done) * self.steps * self.step + evaluations * self.evaluation


def progress_line(
    record: EpochRecord, best: EpochRecord | None, epochs: int, seconds: float, left: float | None
) -> str:
    """The line that is printed after an epoch.

    Args:
        record: of the epoch.
        best: the record with the highest mIoU so far, if an epoch was evaluated.
        epochs: number of epochs of the run.
        seconds: duration of the epoch.
        left: estimated seconds for the rest of the run; None leaves them out.
    """
    line = f"epoch {record.epoch}/{epochs}: loss {record.loss:.6f}"
    if record.evaluated and best:
        line += (f", mIoU {record.mIoU:.4f} (best {best.mIoU:.4f} in epoch {best.epoch}), "
                 f"Pd {record.Pd:.4f}, Fa {record.Fa * 1e6:.2f}e-6, F {record.fscore:.4f}")
    line += f"; {seconds:.1f} s"
    return line if left is None else f"{line}, about {_duration(left)} to go"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
