"""Activations in blocks of channels, beside what test_selfcheck.py holds of all operators."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(autouse=True)
def blocks(cpu):
    from model.ops import layout

    if not layout.has_blocks():
        pytest.skip("oneDNN has no kernels for blocks on this processor")


def values(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def evaluated_norm():
    from model.ops.batch_norm import LEAKY, BatchNorm

    layer = BatchNorm(32, LEAKY)
    layer.running_mean.assign(-values(32))
    layer.running_var.assign(abs(values(32)) + 1)
    layer.eval()
    return layer


def test_batch_norm_in_evaluation_hands_on_the_gradients_of_its_parameters():
    from model.ops import layout
    from utils.runtime import jt

    apply, x, target = evaluated_norm(), *(jt.array(values(3, 32, 10, 14)) for _ in range(2))
    bias = jt.array(values(33)[1:])
    parameters = [apply.weight.start_grad(), apply.bias.start_grad(), bias]  # eval() stopped them
    plain, blocked = (
        [gradient.numpy() for gradient in jt.grad((y * target).sum(), parameters)]
        for y in (apply(x, bias), layout.leave(apply(layout.enter(x), bias))))
    for expected, ours in zip(plain, blocked):
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [4, 8, 24, 40])
def test_kernels_of_each_image_for_few_or_odd_channels(channels):
    from model.ops import layout
    from model.ops.llskm import per_image_conv
    from utils.runtime import jt

    x, kernels = (jt.array(values(3, channels, *shape)) for shape in ((10, 14), (channels, 3, 3)))
    expected = per_image_conv(x, kernels, 1).numpy()
    found = layout.leave(per_image_conv(layout.enter(x), kernels, 1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_pool_gives_a_tie_to_the_first():
    from model.ops import layout
    from model.ops.pool import max_pool2x2
    from utils.runtime import jt

    x = jt.ones((1, 16, 4, 4))
    dx = jt.grad(max_pool2x2(layout.enter(x)).sum(), x).numpy()
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(dx, np.broadcast_to(expected, (1, 16, 4, 4)))


@pytest.mark.parametrize("channels", [1, 4, 16, 48])
def test_enter_and_leave(channels):
    from model.ops import layout
    from utils.runtime import jt

    x = values(2, channels, 5, 7)
    np.testing.assert_array_equal(layout.leave(layout.enter(jt.array(x))).numpy(), x)


def test_a_convolution_refuses_what_is_not_float():
    from model import build_model
    from utils.runtime import jt

    image = jt.array(np.zeros((1, 1, 32, 32), np.uint8))
    with pytest.raises(TypeError, match="a convolution of uint8: float32 is needed"):
        build_model("L2SKNet_UNet")(image)
