"""Layers and networks, beside the table of operators that `test_selfcheck.py` runs."""

from __future__ import annotations

import numpy as np
import pytest

from model import MODEL_NAMES, build_model
from model.layers import LEAKY, LINEAR, RELU, BatchNorm, Conv2d, ConvStack, conv3x3
from model.ops import conv, layout, pool
from model.ops.conv import conv2d
from model.ops.elementwise import probability
from model.ops.layout import enter, leave
from model.ops.llskm import per_image_conv
from utils.checkpoint.weights import get_weights, load_weights
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(("channels", "kernel", "dilation", "groups", "size"), [
    ((16, 16), (9, 9), 2, 2, (21, 18)), ((32, 16), (5, 5), 2, 1, (9, 11)),
    ((16, 32), (3, 3), 2, 2, (7, 8)), ((64, 64), (3, 3), 1, 1, (12, 13)),
    ((16, 16), (7, 7), 1, 1, (30, 31)), ((16, 32), (1, 17), 1, 1, (5, 60)),
    ((48, 16), (17, 1), 1, 1, (60, 5)), ((16, 16), (3, 1), 1, 1, (1, 1)),
])
def test_convolutions_in_fewer_multiplications(
    rng, monkeypatch, block, channels, kernel, dilation, groups, size
):
    """Forward and both gradients against Jittor's own convolution; `block` as with AVX2 alone."""
    if layout.widest_block() < block:
        pytest.skip("needs a CPU with AVX2, or AVX-512 for blocks of 16 channels")
    for module in (layout, conv):
        monkeypatch.setattr(module, "widest_block", lambda: block)
    inputs, outputs = channels
    x = jt.array(normal(rng, 3 - groups, inputs * groups, *size))
    w = jt.array(normal(rng, outputs * groups, inputs, *kernel))
    padding = tuple(dilation * (k - 1) // 2 for k in kernel)
    ours = leave(conv2d(enter(x), w, 1, padding, dilation, groups))
    stock = jt.nn.conv2d(x, w, None, 1, padding, dilation, groups)
    results = []
    for y in (ours, stock):
        gradients = jt.grad(y.sqr().sum(), [x, w])
        jt.sync_all(True)
        results.append([value.numpy() for value in (y, *gradients)])
    for found, expected in zip(*results):
        np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


def test_a_3x3_convolution_in_training_gives_equal_pixels_for_equal_surroundings(rng):
    """The gradient of a max-pool goes to the first of equals, in PyTorch and in the truth."""
    x = jt.array(np.broadcast_to(normal(rng, 1, 32, 1, 1), (1, 32, 12, 14)).copy())
    y = leave(conv2d(enter(x), jt.array(normal(rng, 16, 32, 3, 3)), 1, 1)).numpy()
    inside = y[:, :, 1:-1, 1:-1]
    np.testing.assert_array_equal(inside, np.broadcast_to(inside[:, :, :1, :1], inside.shape))


def test_the_gradient_of_a_bias_does_not_lose_digits_in_its_sum(rng):
    conv = Conv2d(2, 3, 1)
    x, dy = normal(rng, 2, 2, 256, 256), normal(rng, 2, 3, 256, 256) + 1
    y = conv(jt.array(x))
    without = conv.convolve(jt.array(x)).numpy()
    np.testing.assert_array_equal(y.numpy(), without + conv.bias.numpy()[:, None, None])
    gradient = jt.grad((y * jt.array(dy)).sum(), conv.bias).numpy()
    np.testing.assert_allclose(gradient, dy.sum((0, 2, 3), dtype=float), rtol=2e-7)


@pytest.mark.parametrize("slope", [LINEAR, RELU, LEAKY])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_batch_norm_in_training(rng, slope, mean):
    x = normal(rng, 4, 3, 8, 8) + np.float32(mean)
    conv_bias = normal(rng, 3)
    norm = BatchNorm(3, slope)
    gamma, beta = normal(rng, 3), normal(rng, 3)
    norm.weight.update(jt.array(gamma))
    norm.bias.update(jt.array(beta))
    norm.train()
    y = norm(jt.array(x), jt.array(conv_bias)).numpy()

    shifted = x.astype(float) + conv_bias.reshape(3, 1, 1)

    def truth(mean, var):
        mean, var, scale, shift = (v.reshape(3, 1, 1) for v in (mean, var, gamma, beta))
        z = (shifted - mean) / np.sqrt(var + 1e-5) * scale + shift
        return np.where(z > 0, z, z * slope)

    axes = (0, 2, 3)
    mu = shifted.mean(axes)
    np.testing.assert_allclose(y, truth(mu, shifted.var(axes)), atol=1e-6)
    running_mean, running_var = norm.running_mean.numpy(), norm.running_var.numpy()
    np.testing.assert_allclose(running_mean, 0.1 * mu, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(running_var, 0.9 + 0.1 * shifted.var(axes, ddof=1), rtol=1e-6)

    norm.eval()
    y = norm(jt.array(x), jt.array(conv_bias)).numpy()
    np.testing.assert_allclose(y, truth(running_mean, running_var.astype(float)), rtol=2e-6,
                               atol=2e-6 * (1 + mean))


@pytest.mark.parametrize("slope", [LINEAR, RELU, LEAKY])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_does_not_hide_nan(rng, slope, training):
    norm = BatchNorm(3, slope)
    norm.train() if training else norm.eval()
    x = normal(rng, 2, 3, 4, 4)
    x[0, 1, 2, 3] = np.nan
    assert np.isnan(norm(jt.array(x)).numpy()[0, 1, 2, 3])


def test_bias_before_batch_norm_has_a_gradient_of_zero(rng):
    stack = ConvStack({0: (conv3x3(2, 3, bias=True), BatchNorm(3, RELU))})
    stack.train()
    y = stack(jt.array(normal(rng, 2, 2, 6, 6)))
    (gradient,) = jt.grad(y.sqr().sum(), [stack[0].bias])
    assert (gradient.numpy() == 0).all()


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("size", [(1, 1), (13, 30)])
def test_networks_take_any_size(rng, name, size):
    net = build_model(name)
    net.eval()
    y = net(jt.array(normal(rng, 2, 1, *size))).numpy()
    assert y.shape == (2, 1, *size) and np.isfinite(y).all() and (0 < y).all() and (y < 1).all()


@pytest.mark.parametrize("size", [1, 16, 17, 4096])  # the kernel's vectors, and what is left over
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_no_probability(rng, size, value):
    logit = 5 * normal(rng, 1, 1, 1, size)
    expected = jt.sigmoid(jt.array(logit)).numpy()
    lost = np.arange(size) % 3 == 0
    logit[..., lost], expected[..., lost] = value, np.nan
    np.testing.assert_array_equal(probability(jt.array(logit)).numpy(), expected)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_network_that_overflows_says_so(rng, name, place):
    net = build_model(name)
    weights = get_weights(net)
    parts = {"UNet": (["Conv1.conv.0"], ["Conv", "Up_conv2.conv.4"]),
             "FPN": (["layer0.0.body.0"], ["head.block.4", "head.block.1"])}
    for part in parts[name.split("_")[-1]][place]:
        weights[f"{part}.weight"][:] = 3e38
    load_weights(net, weights)
    net.eval()
    y = net(jt.array(normal(rng, 2, 1, 24, 40))).numpy()
    assert np.isnan(y).any() and not (y > 0.999).any()


@pytest.mark.parametrize("form", [lambda x: x, enter], ids=["plain", "blocks"])
@pytest.mark.parametrize("size", [(2, 2), (2, 4), (6, 2), (4, 4)])
def test_max_pool_gives_the_gradient_of_a_tie_to_the_first(size, form):
    x = jt.array(np.ones((1, 16, *size), np.float32))
    (gradient,) = jt.grad(pool.max_pool2x2(form(x)).sum(), [x])
    expected = np.zeros((16, *size))
    expected[:, ::2, ::2] = 1
    np.testing.assert_array_equal(gradient.numpy()[0], expected)


@pytest.mark.parametrize("channels", [4, 8, 24, 40])
def test_one_kernel_per_image_for_few_or_odd_channels(rng, channels):
    x, kernels = (jt.array(normal(rng, 3, channels, *shape))
                  for shape in ((10, 14), (channels, 3, 3)))
    expected = per_image_conv(x, kernels, 1).numpy()
    found = leave(per_image_conv(enter(x), kernels, 1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [1, 4, 16, 48])
def test_enter_and_leave(rng, channels):
    x = normal(rng, 2, channels, 5, 7)
    np.testing.assert_array_equal(leave(enter(jt.array(x))).numpy(), x)


def test_a_convolution_refuses_what_is_not_float():
    image = jt.array(np.zeros((1, 1, 32, 32), np.uint8))
    with pytest.raises(TypeError, match="a convolution of uint8: float32 is needed"):
        build_model("L2SKNet_UNet")(image)
