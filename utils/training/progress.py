"""What a training run says after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from utils.training.logs import EpochRecord


class Pace:
    """How long steps and evaluations take, and so the rest of a run.

    Args:
        steps: in an epoch.
    """

    def __init__(self, steps: int):
        self.steps, self.step, self.evaluation = steps, 0.0, 0.0

    def measure(self, step_ends: Sequence[tuple[float, int]], evaluated: bool) -> None:
        """Takes in an epoch that ends now.

        Args:
            step_ends: the time, by time.monotonic(), and the number of steps complete: when the
                epoch began, and after each step or each few steps.
            evaluated: whether an evaluation followed the steps.
        """
        times, steps = np.array(step_ends, float).T
        if len(times) > 1:
            # The first step compiles, and a resumed epoch lacks some: neither moves the median.
            self.step = float(np.median(np.diff(times) / np.diff(steps)))
        if evaluated:
            self.evaluation = time.monotonic() - times[-1]

    def left(self, done: int, epochs: int, evaluates: Callable[[int, int], bool]) -> float:
        """Seconds that the epochs after `done` take; evaluations count once one was measured."""
        evaluations = sum(evaluates(epoch, epochs) for epoch in range(done + 1, epochs + 1))
        return (epochs - done) * self.steps * self.step + evaluations * self.evaluation


def progress_line(
    record: EpochRecord, best: EpochRecord | None, epochs: int, seconds: float, left: float
) -> str:
    """The line of an epoch.

    Args:
        record: of the epoch.
        best: the record with the highest mIoU so far, if any was evaluated.
        epochs: of the run.
        seconds: that the epoch took.
        left: seconds that the run still takes.
    """
    line = f"epoch {record.epoch}/{epochs}: loss {record.loss:.6f}"
    if record.evaluated and best:
        line += (f", mIoU {record.mIoU:.4f} (best {best.mIoU:.4f} in epoch {best.epoch}), "
                 f"Pd {record.Pd:.4f}, Fa {record.Fa * 1e6:.2f}e-6, F {record.fscore:.4f}")
    return f"{line}; {seconds:.1f} s, about {_duration(left)} to go"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
