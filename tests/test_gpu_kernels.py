"""The kernels for a GPU on machines without one: run on the CPU, thread by thread, and compiled by
nvcc; and what a training step asks of a GPU."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from alignment.selfcheck import operator_checks
from benchmarks.launches import Graph, count, count_step
from model import MODEL_NAMES, build_model, fast_form, soft_iou_loss
from model.fast import FastAttention
from model.layers import LEAKY, LINEAR, RELU, BatchNorm
from model.llskm import LLSKM, LLSKM1D, ChannelAttention, separable_centres, square_kernels
from model.ops import llskm, native
from model.ops.elementwise import concat, global_average
from model.ops.pool import max_pool2x2
from model.ops.resize import resize_bilinear, upsample_nearest2x
from model.ops.sums import add_channel_bias
from utils import runtime
from utils.checkpoint.weights import get_weights
from utils.errors import UserError
from utils.optim import Adam
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


def values(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compute(function, inputs, rehearsed, parameters=()):
    """Outputs, and gradients of the inner product of the first with fixed numbers."""
    with native.rehearse_cuda() if rehearsed else contextlib.nullcontext():
        inputs = [jt.array(x) for x in inputs]
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        pull = (outputs[0].float64() * jt.array(values(9, *outputs[0].shape))).sum()
        gradients = jt.grad(pull, [*inputs, *parameters])
        jt.sync_all(True)
        return [v.numpy() for v in (*outputs, *gradients)]


def norm(slope):
    def function(x, weight, bias, conv_bias):
        layer = BatchNorm(3, slope)
        layer.weight, layer.bias = weight, bias
        layer.train()
        y = layer(x, conv_bias)
        return y, layer.running_mean, layer.running_var
    return function


def attention(pooled, w1, w2):
    module = ChannelAttention(16)
    module.train()
    (dense1, norm1), (dense2, norm2) = module.avg_channel.steps
    dense1.weight, dense2.weight = w1, w2
    theta = module(pooled.float64())
    return theta, norm1.running_mean, norm1.running_var, norm2.running_mean, norm2.running_var


# Planes of more than one block, and of no multiple of anything.
LARGE = (2, 3, 67, 131)
OPERATORS = {
    "batch norm": (norm(LINEAR), LARGE, 3, 3, 3),
    "batch norm, ReLU": (norm(RELU), LARGE, 3, 3, 3),
    "batch norm, LeakyReLU": (norm(LEAKY), LARGE, 3, 3, 3),
    "attention": (attention, (6, 16, 1, 1), (4, 16, 1, 1), (16, 4, 1, 1)),
    "kernels": (square_kernels, (5, 5, 7, 7), (3, 5, 1, 1)),
    "centres": (separable_centres, (5, 5, 1, 9), (5, 5, 9, 1), (3, 5, 1, 1)),
    "bias": (add_channel_bias, LARGE, 3),
    "average": (global_average, LARGE),
    "loss": (soft_iou_loss, (2, 1, 67, 131), (2, 1, 67, 131)),
    "max-pool": (max_pool2x2, (2, 3, 9, 7)),
    "concatenation": (concat, (2, 3, 9, 7), (2, 5, 9, 7)),
    "nearest": (upsample_nearest2x, (2, 3, 5, 7)),
    "bilinear, larger": (lambda x: resize_bilinear(x, (17, 24)), (2, 3, 9, 12)),
    "bilinear, odd": (lambda x: resize_bilinear(x, (31, 8)), (2, 3, 13, 11)),
    "bilinear, of one": (lambda x: resize_bilinear(x, (4, 3)), (1, 2, 1, 2)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_compute_what_the_cpu_computes(name):
    function, *shapes = OPERATORS[name]
    inputs = [values(i, *np.atleast_1d(shape)) for i, shape in enumerate(shapes)]
    for found, expected in zip(compute(function, inputs, True), compute(function, inputs, False)):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def test_batch_norm_of_a_large_mean_and_of_nan():
    x = values(0, *LARGE) + np.float32(1000)
    truth = x.astype(np.float64)
    mean, var = truth.mean((0, 2, 3), keepdims=True), truth.var((0, 2, 3), keepdims=True)
    y = compute(norm(LINEAR), [x, np.ones(3, np.float32), *np.zeros((2, 3), np.float32)], True)[0]
    np.testing.assert_allclose(y, (truth - mean) / np.sqrt(var + 1e-5), atol=2e-6)
    x[0, 1, 2, 3] = np.nan
    for slope in (RELU, LEAKY):
        y = compute(norm(slope), [x, *values(1, 3, 3)], True)[0]
        assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, ::2]).all()


def test_theta_of_the_fast_form_in_double_precision():
    attention = ChannelAttention(32)
    attention.eval()
    theta = FastAttention([attention])
    pooled = jt.array(20 * values(1, 64, 32, 1, 1)).float64()
    on_cpu = theta(pooled).numpy()
    with native.rehearse_cuda():
        on_gpu = theta(pooled).numpy()
    assert on_gpu.dtype == np.float64 and np.ptp(on_gpu) > 0.1
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-14)


def test_every_operator_against_numpy():
    """The rows of the self-check, with the kernels for a GPU."""
    with native.rehearse_cuda():
        for check in operator_checks():
            built = check.build()
            jt.sync_all(True)
            assert max(check.errors(built)) < check.allowed(False), check.name


def train_and_predict(name, rehearsed):
    """Loss, one vector of all gradients, running statistics after the step, probabilities by the
    network and by its fast form."""
    with native.rehearse_cuda() if rehearsed else contextlib.nullcontext():
        runtime.set_seed(2)
        net = build_model(name, dropout=False)
        net.train()
        rng = np.random.default_rng(2)
        x = jt.array(rng.random((4, 1, 24, 32)).astype(np.float32))
        mask = jt.array((rng.random((4, 1, 24, 32)) < 0.1).astype(np.float32))
        loss = soft_iou_loss(net(x), mask)
        gradients = jt.grad(loss, [p for p in net.parameters() if not p.is_stop_grad()])
        jt.sync_all(True)
        running = [w for key, w in get_weights(net).items() if "running" in key]
        gradients = np.concatenate([g.numpy().ravel() for g in gradients])
        net.eval()
        with jt.no_grad():
            predicted = net(x).numpy(), fast_form(net)(x).numpy()
        return loss.numpy(), gradients, np.concatenate(running), *predicted


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_networks_compute_what_they_compute_on_the_cpu(name):
    found, expected = (train_and_predict(name, rehearsed) for rehearsed in (True, False))
    # Of gradients: a value near 0 may fall on the other side of a ReLU.
    for ours, truth, bound in zip(found, expected, (1e-6, 1e-2, 1e-5, 1e-4, 1e-4)):
        assert np.linalg.norm(ours - truth) < bound * np.linalg.norm(truth)


def test_adam_of_many_parameters():
    shapes = [(n + 1, 7) for n in range(40)] + [(5000,)]

    def train(rehearsed):
        """Parameters and state of the optimiser after three steps."""
        with native.rehearse_cuda() if rehearsed else contextlib.nullcontext():
            parameters = [jt.array(values(i, *shape)) for i, shape in enumerate(shapes)]
            optimizer = Adam(parameters, lr=0.1)
            for step in range(3):
                pulls = [jt.array(values(100 + step, *shape)) for shape in shapes]
                optimizer.step(sum((p * g).sum() for p, g in zip(parameters, pulls)))
            return [p.numpy() for p in parameters], optimizer.state_dict()

    (fused, state), (plain, expected) = train(True), train(False)
    for ours, truth in zip(fused, plain):
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    for key, truth in expected.items():
        np.testing.assert_allclose(state[key], truth, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("rehearsed", [True, False])
@pytest.mark.parametrize("block", [(LLSKM, 5, 2), (LLSKM1D, 9)])
def test_both_forms_of_the_convolution_agree(monkeypatch, block, rehearsed):
    kind, *arguments = block
    block, x = kind(8, *arguments), values(0, 3, 8, 20, 70)
    results = []
    for form in llskm.FORMS:
        monkeypatch.setenv(llskm.FORM, form)
        results.append(compute_module(block, x, rehearsed))
    for grouped, two in zip(*results):
        np.testing.assert_allclose(two, grouped, rtol=1e-4, atol=1e-5 * np.abs(grouped).max())


def compute_module(block, x, rehearsed):
    """Output and gradients of a block, by its input and its parameters."""
    block.train()
    parameters = [p for p in block.parameters() if not p.is_stop_grad()]
    return compute(lambda x: block(x, global_average(x)), [x], rehearsed, parameters)


def test_the_faster_form_is_kept(monkeypatch, capfd):
    seconds = {"slow": 2.0, "fast": 1.0}
    timed = []

    def timer(run):
        timed.append(run())
        return seconds[timed[-1]]

    monkeypatch.setattr(llskm, "_seconds", timer)
    monkeypatch.setattr(llskm, "chosen", {})
    ways = {name: lambda name=name: name for name in seconds}
    assert [llskm.fastest(("a shape",), ways) for _ in range(3)] == ["fast"] * 3
    assert timed == ["slow", "fast"]  # once
    seconds.update(slow=0.5)
    assert llskm.fastest(("a shape",), ways) == "fast"
    assert llskm.fastest(("another",), ways) == "slow"
    assert capfd.readouterr().err.count("\n") == 2


def test_a_choice_is_made_by_running_both_forms(monkeypatch):
    block, x = LLSKM(8, 3, 2), values(0, 2, 8, 6, 7)
    results, seconds = [], llskm._seconds

    def timer(run):
        results.append(len(run()))
        return seconds(run)

    monkeypatch.setattr(llskm, "_seconds", timer)
    monkeypatch.setattr(llskm, "chosen", {})
    monkeypatch.setattr(llskm, "_tries", lambda: True)
    compute_module(block, x, False)
    # The result, the gradients of x and θ, and of K (grouped) or of A and B (two).
    assert results == [4, 5]
    block.eval()
    with jt.no_grad():
        for number, width in ((2, 7), (2, 6), (1, 7)):  # one choice for sizes that are alike
            images = jt.array(x[:number, ..., :width])
            block(images, jt.zeros((number, 8, 1, 1), "float64")).sync()
    kernel, prediction = ("3x3", "dilation 2"), ("prediction", "8 channels")
    assert set(llskm.chosen) == {
        (*kernel, "training", (2, 8, 6, 7)),
        (*kernel, *prediction, "several images", "below 128 pixels"),
        (*kernel, *prediction, "one image", "below 64 pixels")}
    assert set(llskm.chosen.values()) <= set(llskm.FORMS)
    monkeypatch.setenv(llskm.FORM, "group")
    with pytest.raises(UserError, match="^L2SKNET_LLSKM_FORM=group: must be grouped, two or auto"):
        compute_module(block, x, False)


@pytest.mark.parametrize(("name", "gigabytes"), [
    ("L2SKNet_UNet", 6.0), ("L2SKNet_FPN", 6.7), ("L2SKNet_1D_UNet", 7.5), ("L2SKNet_1D_FPN", 8.3)])
def test_what_a_training_step_asks_of_a_gpu(name, gigabytes):
    counts = count_step(name)
    assert counts.launches <= 1000
    assert counts.traffic <= gigabytes * 1e9
    assert counts.largest_float64 < 1e6  # the smallest activation has 4 MB
    assert counts.copies == 2  # the batch


def test_a_count_by_hand():
    """y = Σ(2x + 1) of a variable in memory: one kernel, which has a reduction."""
    x = jt.array(np.zeros((100, 100), np.float32))
    jt.sync_all()
    y = (2 * x + 1).sum(1)
    counts = count(Graph(jt.dump_all_graphs()))
    assert y.shape == (100,)
    assert (counts.fused_kernels, counts.launches, counts.traffic) == (1, 2, 100 * 100 * 4 + 400)
    z = y.float64()  # a second kernel: nothing fuses with what follows a reduction
    counts = count(Graph(jt.dump_all_graphs()))
    assert (counts.fused_kernels, counts.launches, counts.float64) == (2, 3, 800)
    del z


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_every_launch_compiles_for_a_gpu(tmp_path, monkeypatch):
    """The operators of a training step and a prediction of all networks, by nvcc for sm_90."""
    operators = {}
    plain = jt.code

    def record(shapes, dtypes, inputs, **sources):
        y = plain(shapes, dtypes, inputs, **sources)
        if "LAUNCH" in sources["cpu_src"]:
            outputs = [y] if isinstance(y, jt.Var) else y
            operands = [(f"{kind}{i}", v.dtype, len(v.shape))
                        for kind, vs in (("in", inputs), ("out", outputs))
                        for i, v in enumerate(vs)]
            operators[sources["cpu_src"]] = operands
        return y

    monkeypatch.setattr(jt, "code", record)
    with native.rehearse_cuda():
        for name in MODEL_NAMES:
            net = build_model(name)
            net.train()
            x = jt.zeros((2, 1, 32, 32))
            Adam(net.parameters()).step(soft_iou_loss(net(x), x))
            for form in llskm.FORMS:
                monkeypatch.setenv(llskm.FORM, form)
                net.eval()
                with jt.no_grad():
                    net(x)
    assert len(operators) > 25
    folder = native.Path(native.__file__).parent
    names = ["launch.cuh", "block.cuh"]
    names += sorted(path.name for path in folder.glob("*.cuh") if path.name not in names)
    text = "".join((folder / name).read_text("utf-8") for name in names)
    text += "#include <map>\nstruct Var { int64_t num; };\nstd::map<std::string, double> data;\n"
    types = {"float32": "float", "float64": "double", "int8": "int8_t"}
    for i, (source, operands) in enumerate(operators.items()):
        parameters = []
        for name, dtype, axes in operands:
            parameters += [f"Var* {name}", f"{types[str(dtype)]}* {name}_p"]
            parameters += [f"int64_t {name}_shape{axis}" for axis in range(axes)]
        text += f"void run_{i}({', '.join(parameters)}) {{\n{source}\n}}\n"
    file = tmp_path / "kernels.cu"
    file.write_text(text, "utf-8")
    done = subprocess.run(["nvcc", "-arch=sm_90", "--use_fast_math", "-c", file, "-o",
                           tmp_path / "kernels.o"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in re.sub(r"(?m)^.*declared but never referenced.*$", "", done.stderr)
