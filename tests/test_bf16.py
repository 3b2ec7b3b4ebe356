"""Prediction in bfloat16: `fast(net, "bfloat16")`, and the operators it has of its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from alignment import golden
from model import MODEL_NAMES, build_model, fast_form
from model.layers import LEAKY, LINEAR, RELU
from model.ops import layout
from model.ops.conv import conv2d, conv2d_activated
from model.ops.elementwise import (
    add,
    bias_activated,
    global_average,
    to_bfloat16,
    weighted_channels,
)
from model.ops.layout import enter, leave
from model.ops.llskm import per_image_conv
from model.ops.pool import max_pool2x2
from model.ops.resize import add_resized, doubled_conv3x3, resize_bilinear, upsample_nearest2x
from utils import runtime
from utils.errors import UserError
from utils.runtime import boot, jt

EPS = 2.0**-8  # half of a step between two bfloat16


@pytest.fixture(autouse=True)
def low_precision(cpu):
    if not layout.uses(boot.AVX512_BF16):
        pytest.skip("this processor has no AVX512-BF16 instructions")


def rounded(*shape, seed=0):
    """Values of bfloat16, as float32."""
    drawn = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return (drawn.view(np.uint32) & 0xFFFF0000).view(np.float32)


def low(array):
    return to_bfloat16(enter(jt.array(array)))


def high(x):
    return leave(x.float32()).numpy()


def activated(z, slope):
    return np.where(z > 0, z, z * slope)


X, Z = rounded(2, 32, 10, 14), rounded(2, 32, 10, 14, seed=1)
BIAS = np.random.default_rng(3).standard_normal(32).astype(np.float32)
WEIGHT = rounded(16, 32, 3, 3, seed=2)
KERNELS = rounded(2, 32, 32, 3, 3, seed=4)


def convolved(x, weight, **arguments):
    return leave(conv2d(enter(jt.array(x)), jt.array(weight), **arguments)).numpy()


def doubled(x, weight):
    return conv2d(upsample_nearest2x(jt.array(x)), jt.array(weight), padding=1).numpy()


# Name, ours of bfloat16 activations, and the truth; each is rounded once.
OPERATORS = {
    "sum": (lambda: add([low(X), low(Z)], RELU), lambda: np.maximum(X + Z, 0)),
    "bias": (lambda: bias_activated(low(X), jt.array(BIAS), LEAKY),
             lambda: activated(X + BIAS.reshape(32, 1, 1), 0.1)),
    "max pool": (lambda: max_pool2x2(low(X)),
                 lambda: X.reshape(2, 32, 5, 2, 7, 2).max((3, 5))),
    "convolution": (lambda: conv2d_activated(low(X), jt.array(WEIGHT), jt.array(BIAS[:16]), RELU,
                                             padding=1),
                    lambda: np.maximum(convolved(X, WEIGHT, padding=1)
                                       + BIAS[:16].reshape(16, 1, 1), 0)),
    "per-image convolution": (
        lambda: per_image_conv(low(X), jt.array(KERNELS), 1, 1, jt.array(BIAS), LINEAR),
        lambda: per_image_conv(jt.array(X), jt.array(KERNELS), 1).numpy()
        + BIAS.reshape(32, 1, 1)),
    "doubling and convolution": (  # sums of these taps are exact
        lambda: doubled_conv3x3(low(X), jt.array(np.round(WEIGHT)), jt.zeros(16), RELU),
        lambda: np.maximum(doubled(X, np.round(WEIGHT)), 0)),
    "doubling and convolution, bias": (  # all of it is exact
        lambda: doubled_conv3x3(low(np.sign(X)), jt.array(np.sign(WEIGHT)),
                                jt.array(np.round(4 * BIAS[:16])), RELU),
        lambda: np.maximum(doubled(np.sign(X), np.sign(WEIGHT))
                           + np.round(4 * BIAS[:16]).reshape(16, 1, 1), 0)),
    "weighted channels": (
        lambda: weighted_channels(low(X), jt.array(WEIGHT[:1, :, :1, :1]), jt.array(BIAS[:1])),
        lambda: convolved(X, WEIGHT[:1, :, :1, :1]) + BIAS[0]),
    "resizing and sum": (
        lambda: add_resized(low(X), low(rounded(2, 32, 19, 28, seed=5))),
        lambda: rounded(2, 32, 19, 28, seed=5)
        + np.maximum(resize_bilinear(jt.array(X), (19, 28)).numpy(), 0)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_round_once_and_do_not_hide_nan(name):
    ours, truth = OPERATORS[name]
    with jt.no_grad():
        expected = truth()
        np.testing.assert_allclose(high(ours()), expected, rtol=1.1 * EPS,
                                   atol=2e-5 * abs(expected).max())
        if name == "max pool":  # the maximum leaves NaN out; the level above keeps it
            return
        before, X[0, 3, 4, 4] = X[0, 3, 4, 4], np.nan
        try:
            assert np.isnan(high(ours())[0]).any()
        finally:
            X[0, 3, 4, 4] = before


def test_rounding_is_to_the_nearest_and_ties_go_to_even():
    values = np.array([1 + EPS, 1 + 3 * EPS, np.inf, -0.0], np.float32).reshape(1, 1, 2, 2)
    found = high(low(values)).ravel()
    np.testing.assert_array_equal(found, [1, 1 + 4 * EPS, np.inf, 0])


def test_global_average():
    means = global_average(low(X)).numpy()
    np.testing.assert_allclose(means, X.mean((2, 3), dtype=float, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_networks_stay_near_float32(name):
    net, fixture = build_model(name, dropout=False), golden.load(name)
    golden.reset(net, fixture)
    net.eval()
    with jt.no_grad():
        output, in_float32 = (fast_form(net, dtype)(golden.batch("1x48x80")[0])
                              for dtype in ("bfloat16", "float32"))
    assert output.dtype == "float32"
    errors = np.abs(output.numpy() - fixture["f64/1x48x80/eval"])
    assert 1e-5 < errors.max() < 0.1 and errors.mean() < 0.01, (errors.max(), errors.mean())
    # What is remembered of a shape in one type is not taken for the other.
    assert np.abs(in_float32.numpy() - fixture["f64/1x48x80/eval"]).max() < 1e-5


@pytest.mark.skipif("amx_bf16" not in Path("/proc/cpuinfo").read_text()
                    or "DNNL_MAX_CPU_ISA" in os.environ, reason="this processor has no AMX")
def test_amx_is_used():
    assert layout.uses(layout.AMX)


def test_a_processor_without_it_is_told(monkeypatch):
    monkeypatch.setattr(boot, "cpu_instructions", lambda: 0x67)
    runtime.start("cpu", "default")
    with pytest.raises(UserError, match="no AVX512-BF16 instructions.*leave the flag out"):
        runtime.start("cpu", "bf16")
    assert runtime.precision() == "default"
