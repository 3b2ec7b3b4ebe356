"""--precision bf16: each operator rounds once, to the nearest; the networks stay near float32."""

from __future__ import annotations

import numpy as np
import pytest

from model import MODEL_NAMES, build_model, soft_iou_loss
from utils import runtime
from utils.errors import UserError
from utils.runtime import boot

LINEAR, RELU, LEAKY = 1.0, 0.0, 0.1
EPS = 2.0**-8  # half the distance of neighbouring values, over the value


@pytest.fixture(autouse=True)
def bf16(cpu):
    """Jittor computing in bfloat16, and in float32 again for the other tests."""
    before = runtime.precision()
    try:
        runtime.start("cpu", "bf16")
    except UserError as error:
        pytest.skip(str(error))
    yield
    runtime.start("cpu", before)


def rounded(values):
    """The nearest bfloat16 of each float32, of two equally near ones the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def activations(*shape, seed=0):
    """Values that bfloat16 holds exactly, in blocks of 16 channels."""
    return rounded(np.random.default_rng(seed).standard_normal((*shape, 16)))


def low(array):
    """A Jittor variable in bfloat16 of values that it holds exactly."""
    return runtime.jt.array(array).bfloat16()


def high(variable):
    return variable.float32().numpy()


def gradient(y, dy, *inputs):
    """Gradients for a given dy, each in float32."""
    jt = runtime.jt
    found = jt.grad((y.float32() * jt.array(dy)).sum(), list(inputs))
    return [high(one) for one in found]


def test_rounding_to_the_nearest():
    jt = runtime.jt
    from model.ops.elementwise import to_float32

    x = low(activations(1, 1, 8, 8))
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    dy.flat[:4] = 1 + EPS, 1 + 3 * EPS, np.inf, -0.0  # two ties, the first goes down, the next up
    assert rounded(dy).flat[:2].tolist() == [1, 1 + 4 * EPS]
    (dx,) = jt.grad((to_float32(x) * jt.array(dy)).sum(), [x])
    np.testing.assert_array_equal(high(dx), rounded(dy))
    dy.flat[0] = np.nan
    (dx,) = jt.grad((to_float32(x) * jt.array(dy)).sum(), [x])
    assert np.isnan(high(dx).flat[0])


@pytest.mark.parametrize("slope", [LINEAR, RELU, LEAKY])
def test_sums_are_rounded_once(slope):
    from model.ops.elementwise import add

    arrays = [activations(2, 2, 5, 7, seed=seed) for seed in range(4)]
    terms = [low(array) for array in arrays]
    y = add(terms, slope)
    total = sum(array.astype(float) for array in arrays)
    expected = rounded(np.where(total > 0, total, slope * total).astype(np.float32))
    np.testing.assert_allclose(high(y), expected, rtol=EPS, atol=1e-6)
    assert (high(y) == expected).mean() > 0.999  # a float32 sum may round a tie otherwise
    dy = activations(2, 2, 5, 7, seed=9)
    for dx in gradient(y, dy, *terms):
        np.testing.assert_array_equal(
            dx, np.where(high(y) > 0, dy, rounded(dy * np.float32(slope))))


def test_relu_of_a_sum_does_not_hide_nan():
    from model.ops.elementwise import add

    array = activations(1, 1, 4, 4)
    array.flat[5] = np.nan
    assert np.isnan(high(add([low(array), low(array)], RELU)).flat[5])


def test_subtract():
    from model.ops.elementwise import subtract

    a, b = activations(1, 1, 6, 6), activations(1, 1, 6, 6, seed=1)
    x, z = low(a), low(b)
    y = subtract(x, z)
    np.testing.assert_array_equal(high(y), rounded(a - b))
    dy = activations(1, 1, 6, 6, seed=2)
    dx, dz = gradient(y, dy, x, z)
    np.testing.assert_array_equal(dx, dy)
    np.testing.assert_array_equal(dz, -dy)


def test_gradients_of_several_uses_are_added_up_at_once():
    from model.ops.elementwise import share

    jt, x = runtime.jt, low(activations(1, 1, 6, 6))
    factors = [np.float32(f) for f in (1, EPS, EPS, EPS, EPS)]  # one by one, all but 1 are lost
    uses = share(x, len(factors))
    total = sum((use.float32() * jt.array(f)).sum() for use, f in zip(uses, factors))
    (dx,) = jt.grad(total, [x])
    np.testing.assert_array_equal(high(dx), rounded(np.full(x.shape, 1 + 4 * EPS, np.float32)))


def test_bias_average_upsampling_pooling():
    from model.ops.elementwise import add_bias, global_average
    from model.ops.pool import max_pool2x2
    from model.ops.resize import upsample_nearest2x

    jt, array = runtime.jt, activations(2, 2, 6, 10)
    x, bias = low(array), np.random.default_rng(3).standard_normal(32).astype(np.float32)
    b = jt.array(bias)
    y = add_bias(x, b)
    np.testing.assert_array_equal(high(y), rounded(array + bias.reshape(1, 2, 1, 1, 16)))
    dy = activations(2, 2, 6, 10, seed=4)
    dx, db = gradient(y, dy, x, b)
    np.testing.assert_array_equal(dx, dy)
    np.testing.assert_allclose(db, dy.sum((0, 2, 3), dtype=float).ravel(), rtol=1e-6)

    mean = global_average(x)
    truth = array.mean((2, 3), dtype=float).reshape(2, 32, 1, 1)
    np.testing.assert_allclose(mean.numpy(), truth, rtol=1e-12, atol=1e-15)
    (dx,) = jt.grad((mean * jt.array(truth)).sum(), [x])
    expected = rounded((truth / 60).astype(np.float32)).reshape(2, 2, 1, 1, 16)
    np.testing.assert_array_equal(high(dx), np.broadcast_to(expected, array.shape))

    y = upsample_nearest2x(x)
    np.testing.assert_array_equal(high(y), array.repeat(2, 2).repeat(2, 3))
    dy = activations(2, 2, 12, 20, seed=5)
    (dx,) = gradient(y, dy, x)
    quads = dy.reshape(2, 2, 6, 2, 10, 2, 16)
    np.testing.assert_allclose(dx, rounded(quads.sum((3, 5))), rtol=EPS, atol=1e-6)

    y = max_pool2x2(x)
    quads = array.reshape(2, 2, 3, 2, 5, 2, 16)
    np.testing.assert_array_equal(high(y), quads.max((3, 5)))
    dy = activations(2, 2, 3, 5, seed=6)
    (dx,) = gradient(y, dy, x)
    np.testing.assert_array_equal(dx.reshape(quads.shape).sum((3, 5)), dy)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training):
    from model.ops.batch_norm import LEAKY, BatchNorm

    jt, array = runtime.jt, activations(3, 2, 8, 8)
    norm = BatchNorm(32, LEAKY)
    norm.running_mean.update(jt.array(np.linspace(-1, 1, 32, dtype=np.float32)))
    norm.train() if training else norm.eval()
    x, wide = low(array), array.astype(float)
    mean, var = wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)
    if not training:
        mean, var = np.linspace(-1, 1, 32).reshape(1, 2, 1, 1, 16), 1
    z = (wide - mean) / np.sqrt(var + 1e-5)
    y = norm(x)
    np.testing.assert_allclose(high(y), np.where(z > 0, z, 0.1 * z), rtol=1.01 * EPS, atol=1e-6)
    if training:
        dy = activations(3, 2, 8, 8, seed=1)
        (dx,) = gradient(y, dy, x)
        dz = dy * np.where(z > 0, 1, 0.1)
        pixels = (0, 2, 3)
        truth = dz - dz.mean(pixels, keepdims=True) - z * (dz * z).mean(pixels, keepdims=True)
        truth /= np.sqrt(var + 1e-5)
        np.testing.assert_allclose(dx, truth, rtol=1.01 * EPS, atol=1e-5)
        np.testing.assert_allclose(  # the statistics stay exact
            norm.running_mean.numpy(),
            0.9 * np.linspace(-1, 1, 32) + 0.1 * mean.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [(3, 3, 1), (9, 9, 2), (1, 17, 1), (17, 1, 1)])
def test_convolution(kernel):
    from model.ops.conv import conv2d
    from model.ops.layout import enter, leave

    jt = runtime.jt
    height, width, dilation = kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    rng = np.random.default_rng(0)
    x32 = jt.array(rounded(rng.standard_normal((2, 16, 24, 24))))
    w = jt.array(rounded(rng.standard_normal((16, 16, height, width))))
    dy = rounded(rng.standard_normal((2, 16, 24, 24)))
    x = enter(x32).bfloat16()
    y = leave(conv2d(x, w, 1, padding, dilation).float32())
    exact = leave(conv2d(enter(x32), w, 1, padding, dilation))
    found = [y, *jt.grad((y * jt.array(dy)).sum(), [x, w])]
    truth = [exact, *jt.grad((exact * jt.array(dy)).sum(), [x32, w])]
    found[1] = leave(found[1].float32())
    for ours, expected in zip(found, truth):
        ours, expected = high(ours), high(expected)
        np.testing.assert_allclose(ours, expected, rtol=1.1 * EPS, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize("slope", [LINEAR, RELU, LEAKY])
@pytest.mark.parametrize("kernel, hidden", [(3, 16), (1, 32), (3, 4), ((1, 17), 16)])
def test_a_convolution_takes_bias_and_activation_over(kernel, hidden, slope):
    from model.ops.conv import conv2d_activated
    from model.ops.layout import enter, leave

    jt = runtime.jt
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    rng = np.random.default_rng(0)
    x = rounded(rng.standard_normal((2, 16, 24, 24)))
    w = rounded(rng.standard_normal((hidden, 16, height, width)))
    bias = rng.standard_normal(hidden).astype(np.float32)
    low_x = enter(jt.array(x)).bfloat16()
    padding = height // 2, width // 2
    y = conv2d_activated(low_x, jt.array(w), jt.array(bias), slope, padding=padding)
    z = jt.nn.conv2d(jt.array(x), jt.array(w), jt.array(bias), padding=padding).numpy()
    np.testing.assert_allclose(high(leave(y)), np.where(z > 0, z, slope * z),
                               rtol=1.1 * EPS, atol=2e-5 * abs(z).max())
    x[1, 3, 5, 7] = np.nan  # is not hidden by a ReLU
    y = conv2d_activated(enter(jt.array(x)).bfloat16(), jt.array(w), jt.array(bias), slope,
                         padding=padding)
    assert np.isnan(high(leave(y))[1, :, 5, 7]).all()


def test_theta_in_one_operator():
    from model.llskm import ChannelAttention

    jt, rng = runtime.jt, np.random.default_rng(0)
    attention = ChannelAttention(32)
    for _, norm in attention.avg_channel.steps:
        for values in norm.parts():
            values.update(jt.array((0.5 + rng.random(values.shape)).astype(np.float32)))
    attention.eval()
    pooled = jt.array(rng.standard_normal((3, 32, 1, 1))).float64()
    theta = attention.predicted(pooled).numpy()
    assert theta.dtype == np.float64 and theta.std() > 0.05
    np.testing.assert_allclose(theta, attention(pooled).numpy(), rtol=1e-12)
    pooled[1, 5] = np.nan
    assert np.isnan(attention.predicted(pooled).numpy()).all((1, 2, 3)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("channels", [16, 32])
def test_the_gradients_of_each_images_1x1_kernels(channels):
    from model.ops.layout import enter, leave
    from model.ops.llskm import per_image_conv

    jt, rng = runtime.jt, np.random.default_rng(0)
    x, upstream = (rounded(rng.standard_normal((3, channels, 9, 8))) for _ in range(2))
    kernels = jt.array(rounded(rng.standard_normal((3, channels, channels, 1, 1))))
    x_low = enter(jt.array(x)).bfloat16()
    loss = (per_image_conv(x_low, kernels) * enter(jt.array(upstream)).bfloat16()).sum()
    dx, dkernels = jt.grad(loss, [x_low, kernels])
    truth = np.einsum("nohw,nchw->noc", upstream.astype(float), x)
    np.testing.assert_allclose(dkernels.numpy()[..., 0, 0], truth, rtol=1e-5, atol=1e-4)
    truth = np.einsum("nohw,noc->nchw", upstream.astype(float), kernels.numpy()[..., 0, 0])
    np.testing.assert_allclose(high(leave(dx)), truth, rtol=1.1 * EPS, atol=1e-5)


@pytest.mark.parametrize("form", ["2D", "1D"])
def test_the_kernels_of_each_image_in_one_operator(form):
    from model.ops.llskm import centres, kernels, scaled

    jt, rng = runtime.jt, np.random.default_rng(0)
    theta = jt.array(rng.random((3, 32, 1, 1))).float64()
    scale = jt.array(0.5 + rng.random((32, 1, 1, 1))).float64()
    shapes = {"2D": [(32, 32, 5, 5)], "1D": [(32, 32, 1, 5), (32, 32, 5, 1)]}[form]
    weights = [jt.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    function = {"2D": kernels, "1D": centres}[form]
    ours, truth = scaled(function.__name__, weights, theta, scale), function(*weights, theta)
    truth = (truth * scale).numpy()
    assert ours.shape == truth.shape
    np.testing.assert_allclose(ours.numpy(), truth, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 2)])
def test_doubling_and_a_convolution_at_once(size):
    from model.ops.conv import conv2d, doubled_conv3x3
    from model.ops.layout import enter, leave
    from model.ops.resize import upsample_nearest2x

    jt, rng = runtime.jt, np.random.default_rng(0)
    x = enter(jt.array(rounded(rng.standard_normal((2, 32, *size)))))
    w = jt.array(rounded(rng.integers(-8, 8, (16, 32, 3, 3)) / 8))  # sums of taps are exact
    y = high(leave(doubled_conv3x3(x.bfloat16(), w)))
    truth = leave(conv2d(upsample_nearest2x(x), w, padding=1)).numpy()
    np.testing.assert_allclose(y, truth, rtol=1.1 * EPS, atol=1e-5 * abs(truth).max())


@pytest.mark.parametrize("sizes", [((4, 6), (8, 12)), ((5, 7), (9, 14)), ((1, 1), (2, 1))])
def test_resizing_and_adding_at_once(sizes):
    from model.ops.resize import add_resized, resize_bilinear

    jt = runtime.jt
    coarse, fine = (activations(2, 2, *size, seed=seed) for seed, size in enumerate(sizes))
    y = high(add_resized(low(coarse), low(fine)))
    truth = fine + np.maximum(resize_bilinear(jt.array(coarse), sizes[1]).numpy(), 0)
    np.testing.assert_allclose(y, truth, rtol=1.01 * EPS, atol=1e-6)
    coarse[0, 0, 0, 0, 0] = np.nan
    assert np.isnan(high(add_resized(low(coarse), low(fine)))[0, 0, 0, 0, 0])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_folding_batch_norms_costs_no_precision(name, monkeypatch):
    from model.ops.batch_norm import BatchNorm

    jt = runtime.jt
    np.random.seed(0)
    net = build_model(name, dropout=False)
    rng = np.random.default_rng(0)
    for module in net.modules():
        if isinstance(module, BatchNorm):  # as after a training
            for values, low_end in ((module.weight, 0.5), (module.running_var, 0.5),
                                    (module.bias, -0.2), (module.running_mean, -0.2)):
                drawn = low_end + rng.random(values.shape)
                values.update(jt.array(drawn.astype(np.float32)))
    net.eval()
    x = jt.array(rng.random((2, 1, 48, 56)).astype(np.float32))
    with jt.no_grad():
        folded = net(x).numpy()
        monkeypatch.setattr(BatchNorm, "folds", lambda *_: False)
        apart = net(x).numpy()
        runtime.start("cpu", "default")
        exact = net(x).numpy()
    assert not np.array_equal(folded, apart)
    errors = [np.sqrt(np.square(y - exact).mean()) for y in (folded, apart)]
    assert 0 < errors[0] < 1.5 * errors[1], errors


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_networks_stay_near_float32(name):
    jt = runtime.jt
    np.random.seed(0)
    net = build_model(name, dropout=False)
    rng = np.random.default_rng(0)
    x, mask = rng.random((4, 1, 48, 48)), rng.random((4, 1, 48, 48)) > 0.95
    x, mask = x.astype(np.float32), mask.astype(np.float32)
    outputs = {}
    for precision in ("bf16", "default"):
        runtime.start("cpu", precision)
        net.eval()
        with jt.no_grad():
            outputs[precision] = net(jt.array(x)).numpy()
        assert outputs[precision].dtype == np.float32
    error = np.abs(outputs["bf16"] - outputs["default"]).max()
    assert 1e-6 < error < 0.02  # it is another precision, and near


def test_training_in_bf16():
    from utils.optim import Adam

    jt = runtime.jt
    rng = np.random.default_rng(0)
    mask = np.zeros((2, 1, 32, 32), np.float32)
    mask[:, :, 12:16, 20:24] = 1
    x = (0.3 + 0.5 * mask + 0.05 * rng.standard_normal(mask.shape)).astype(np.float32)
    losses = {}
    for precision in ("bf16", "default"):
        runtime.start("cpu", precision)
        np.random.seed(0)
        net = build_model("L2SKNet_1D_FPN", dropout=False)
        net.train()
        optimizer = Adam(net.parameters(), 3e-3)
        losses[precision] = []
        for _ in range(10):
            loss = soft_iou_loss(net(jt.array(x)), jt.array(mask))
            optimizer.step(loss)
            losses[precision].append(loss.item())
        assert all(p.dtype == "float32" for p in net.parameters())
    low, exact = losses["bf16"], losses["default"]
    assert low[-1] < low[0] - 0.01
    difference = np.abs(np.subtract(low, exact))
    assert 0 < difference.max() < 2e-3, losses


def test_a_processor_without_it_is_told(monkeypatch):
    monkeypatch.setattr(boot, "cpu_instructions", lambda: 0x67)
    runtime.start("cpu", "default")
    with pytest.raises(UserError, match="no AVX512-BF16 instructions.*leave the flag out"):
        runtime.start("cpu", "bf16")
    assert runtime.precision() == "default"
