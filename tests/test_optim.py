"""Adam and MultiStepLR against their definitions in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from model.layers import RELU, BatchNorm
from utils.optim import Adam, MultiStepLR
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


def test_adam_adds_epsilon_after_bias_correction():
    # With gradients of about ε the two orders differ by a factor.
    scales = np.array([1e-8, 1e-4, 1.0], np.float32)
    p = jt.array(np.zeros(3, np.float32))
    optimizer = Adam([p], lr=0.1)
    x, m, v = np.zeros(3), 0.0, 0.0
    for t in range(1, 6):
        target = np.array([1.0, -2.0, 3.0]) * t
        g = scales * (x - target)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.1 / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8)
        difference = p - jt.array(target.astype(np.float32))
        optimizer.step((0.5 * jt.array(scales) * difference.sqr()).sum())
        np.testing.assert_allclose(p.numpy(), x, rtol=1e-5)


def test_adam_leaves_running_statistics_alone():
    p, buffer = jt.array(np.ones(2, np.float32)), jt.array(np.ones(2, np.float32)).stop_grad()
    optimizer = Adam([p, buffer], lr=0.1)
    optimizer.step((p * buffer).sum())
    assert (buffer.numpy() == 1).all() and (p.numpy() < 1).all()


def test_adam_refuses_a_network_without_gradients():
    net = BatchNorm(2, RELU)
    net.eval()
    with pytest.raises(ValueError, match=r"train\(\)"):
        Adam(net.parameters())
    net.train()
    assert len(Adam(net.parameters()).parameters) == 2


def test_adam_goes_on_from_its_state_exactly():
    def steps(p, optimizer, number):
        for _ in range(number):
            optimizer.step((p.sqr() * jt.array(np.array([1, 20], np.float32))).sum())
        return p.numpy()

    start_value = np.array([1.0, -1.0], np.float32)
    p = jt.array(start_value)
    whole = steps(p, Adam([p], lr=0.01), 6)
    p = jt.array(start_value)
    first = Adam([p], lr=0.01)
    half, state = steps(p, first, 3), first.state_dict()
    q = jt.array(half)
    second = Adam([q], lr=1.0)
    second.load_state_dict(state)
    np.testing.assert_array_equal(steps(q, second, 3), whole)
    with pytest.raises(ValueError, match=r"m\.0"):
        Adam([jt.array(np.ones(3, np.float32))]).load_state_dict(state)


def test_multi_step_lr_lowers_the_rate_after_its_milestones():
    optimizer = Adam([jt.array(np.ones(1, np.float32))], lr=0.1)
    scheduler = MultiStepLR(optimizer, [2, 4])
    rates = []
    for _ in range(5):
        rates.append(optimizer.lr)  # of epochs 1 to 5
        scheduler.step()
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001])

    resumed = MultiStepLR(Adam([jt.array(np.ones(1, np.float32))], lr=0.1), [9])
    resumed.load_state_dict(scheduler.state_dict())
    resumed.step()
    assert resumed.optimizer.lr == pytest.approx(0.001)
