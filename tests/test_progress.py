"""The line that a training run says after every epoch."""

from __future__ import annotations

import pytest

from utils.training import progress
from utils.training.logs import EpochRecord


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def every_fifth(epoch, epochs):
    return epoch % 5 == 0 or epoch == epochs


def measure(pace, clock, marks, end, evaluated):
    """Marks the steps of an epoch at the given times; the epoch ends at `end`."""
    clock[0] = marks[0][0]
    pace.begin(marks[0][1])
    for clock[0], done in marks[1:]:
        pace.steps_done(done)
    clock[0] = end
    pace.epoch_done(evaluated)


def test_neither_compilation_nor_a_resumed_epoch_moves_what_is_left(clock):
    pace = progress.Pace(steps=83)
    # The first step compiled for 90 s; 50 s of evaluation at the end.
    measure(pace, clock, [(0, 0), *((90 + 2 * step, step) for step in range(1, 61))], 260.0, True)
    # 56 epochs of 83 steps of 2 s, twelve of them with an evaluation
    assert pace.left(4, 60, every_fifth) == pytest.approx(56 * 166 + 12 * 50)
    # Three steps after a resumption, the first slow, no evaluation.
    measure(pace, clock, [(300, 80), (303, 81), (305, 82), (307, 83)], 307.0, False)
    assert pace.left(4, 60, every_fifth) == pytest.approx(56 * 166 + 12 * 50)
    assert pace.left(60, 60, every_fifth) == 0
    # Only the evaluation had been interrupted.
    measure(pace, clock, [(400, 83)], 440.0, True)
    assert pace.left(59, 60, every_fifth) == pytest.approx(166 + 40)
    # A GPU, whose steps are finished by eights; three steps are left at the end.
    measure(pace, clock, [(0, 0), (10, 8), (14, 16), (18, 24), (19.5, 27)], 30.0, True)
    assert pace.left(59, 60, every_fifth) == pytest.approx(83 * 0.5 + 10.5)


def test_a_run_resumed_before_an_evaluation_estimates_nothing_until_a_step_was_timed(clock):
    pace = progress.Pace(steps=83)
    measure(pace, clock, [(0, 83)], 45.0, True)
    assert pace.left(360, 400, every_fifth) is None
    measure(pace, clock, [(45, 0), (47, 1), (49, 2)], 50.0, False)
    assert pace.left(361, 400, every_fifth) == pytest.approx(39 * 166 + 8 * 45)


def test_the_line():
    plain = EpochRecord(7, 0.25)
    assert (progress.progress_line(plain, None, 60, 152.04, 8000.0)
            == "epoch 7/60: loss 0.250000; 152.0 s, about 2 h 13 min to go")
    assert (progress.progress_line(plain, None, 60, 45.04, None)
            == "epoch 7/60: loss 0.250000; 45.0 s")
    scored = EpochRecord(10, 0.125, "", 0.9, 0.75, 0.875, 9.5e-6, 0.8)
    assert progress.progress_line(scored, scored, 60, 9.0, 90.0) == (
        "epoch 10/60: loss 0.125000, mIoU 0.7500 (best 0.7500 in epoch 10), Pd 0.8750, "
        "Fa 9.50e-6, F 0.8000; 9.0 s, about 2 min to go")
