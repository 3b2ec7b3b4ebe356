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


def test_neither_compilation_nor_a_resumed_epoch_moves_what_is_left(clock):
    pace = progress.Pace(steps=83)
    clock[0] = 260.0  # the first step compiled for 90 s; 50 s of evaluation at the end
    pace.measure([(0, 0), *((90 + 2 * step, step) for step in range(1, 61))], True)
    # 56 epochs of 83 steps of 2 s, twelve of them with an evaluation
    assert pace.left(4, 60, every_fifth) == pytest.approx(56 * 166 + 12 * 50)
    clock[0] = 307.0  # three steps after a resumption, the first slow, no evaluation
    pace.measure([(300, 80), (303, 81), (305, 82), (307, 83)], False)
    assert pace.left(4, 60, every_fifth) == pytest.approx(56 * 166 + 12 * 50)
    assert pace.left(60, 60, every_fifth) == 0
    clock[0] = 440.0  # only the evaluation had been interrupted
    pace.measure([(400, 83)], True)
    assert pace.left(59, 60, every_fifth) == pytest.approx(166 + 40)
    clock[0] = 30.0  # a GPU, whose steps are complete by eights; three steps are left at the end
    pace.measure([(0, 0), (10, 8), (14, 16), (18, 24), (19.5, 27)], True)
    assert pace.left(59, 60, every_fifth) == pytest.approx(83 * 0.5 + 10.5)


def test_the_line():
    plain = EpochRecord(7, 0.25)
    assert (progress.progress_line(plain, None, 60, 152.04, 8000.0)
            == "epoch 7/60: loss 0.250000; 152.0 s, about 2 h 13 min to go")
    scored = EpochRecord(10, 0.125, "", 0.9, 0.75, 0.875, 9.5e-6, 0.8)
    assert progress.progress_line(scored, scored, 60, 9.0, 90.0) == (
        "epoch 10/60: loss 0.125000, mIoU 0.7500 (best 0.7500 in epoch 10), Pd 0.8750, "
        "Fa 9.50e-6, F 0.8000; 9.0 s, about 2 min to go")
