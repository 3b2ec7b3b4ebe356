"""What is captured of the contrast stages is what the network computes, and the best channel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate

from model import build_model
from utils import runtime
from utils.checkpoint import load_weights
from utils.checkpoint.pretrained import find_pretrained
from utils.predict import predict
from utils.predict.capture import capture_stages, keep_calls
from utils.report.kernels import best_channel

EPS = 1e-5  # of the norms


@pytest.fixture(scope="module", params=["L2SKNet_UNet", "L2SKNet_1D_FPN"])
def captured(request):
    """A network, its stages for an image of 40×56, and the probabilities before the capture."""
    runtime.start("cpu")
    net = build_model(request.param)
    load_weights(net, find_pretrained("NUDT-SIRST", request.param))
    net.eval()
    image = np.random.default_rng(5).uniform(0.3, 0.35, (40, 56)).astype(np.float32)
    image[20:22, 30:33] = 0.8
    before = predict(net, image[None, None])
    stages = capture_stages(net, image)
    np.testing.assert_array_equal(predict(net, image[None, None]), before)
    return net, stages


def test_the_kernels_make_the_responses(captured):
    """In float64, away from the border, where the separable form pads twice."""
    net, stages = captured
    shapes = [stage.before.shape for stage in stages]
    assert shapes == [(16, 40, 56), (32, 20, 28), (64, 10, 14), (128, 5, 7)]
    for stage, parts in zip(stages, net.stages):
        assert len(stage.branches) == len(parts.branches)
        for branch, (llskm, norm) in zip(stage.branches, parts.branches):
            assert branch.size == llskm.kernel_size and branch.theta.shape == (len(stage.before),)
            assert 0 <= branch.theta.min() < branch.theta.max() <= 1
            kernel, shift = branch.kernel[3], 0.0
            if branch.row is not None:
                column = branch.column[3].astype(float)
                shift = -llskm.conv_nx1.bias.numpy()[3] - (
                    column.sum((1, 2)) @ llskm.conv_1xn.bias.numpy())
            spread = np.zeros((len(kernel), *2 * [(branch.size - 1) * branch.dilation + 1]))
            spread[:, :: branch.dilation, :: branch.dilation] = kernel
            expected = correlate(stage.before.astype(float), spread, "valid")[0] + shift
            edge = spread.shape[1] // 2
            inside = np.s_[edge : stage.before.shape[1] - edge, edge : stage.before.shape[2] - edge]
            assert expected.size
            np.testing.assert_allclose(branch.response[3][inside], expected, rtol=1e-4,
                                       atol=1e-4 * np.abs(branch.response).max())

            mean, var, scale, bias = (
                getattr(norm, name).numpy()[:, None, None].astype(float)
                for name in ("running_mean", "running_var", "weight", "bias"))
            normed = (branch.response - mean) / np.sqrt(var + EPS) * scale + bias
            np.testing.assert_allclose(branch.output, np.where(normed > 0, normed, 0.1 * normed),
                                       rtol=1e-4, atol=1e-4)


def test_what_leaves_a_stage_is_its_merged_sum_of_branches(captured):
    net, stages = captured
    for stage, parts in zip(stages, net.stages):
        total = sum(branch.output for branch in stage.branches)
        if parts.merge is not None:
            with runtime.jt.no_grad():
                total = parts.merge(runtime.jt.array(total[None])).numpy()[0]
        np.testing.assert_allclose(stage.after, total, rtol=1e-4, atol=1e-4 * np.abs(total).max())


def test_the_taps_of_a_kernel_add_up_to_theta_times_the_centre_of_w(captured):
    """W_sum takes away what W gives on a constant input; the separable form only by pairs."""
    net, stages = captured
    for stage, parts in zip(stages, net.stages):
        for branch, (llskm, _) in zip(stage.branches, parts.branches):
            theta, half = branch.theta[:, None], branch.size // 2
            if branch.row is None:
                left, centre = 0, llskm.conv.weight.numpy()[:, :, half, half].astype(float)
            else:
                row, column = (one.astype(float) for one in (branch.row, branch.column))
                centre = row[:, :, 0, half] * column[:, :, half, 0]
                row, column = row.sum((2, 3)), column.sum((2, 3))
                left = column * row - column @ row
            np.testing.assert_allclose(branch.kernel.sum((2, 3)), left + theta * centre, atol=1e-6)


def test_calls_are_kept_inside_the_block_alone(cpu):
    from model.layers import conv1x1

    jt, module = runtime.jt, conv1x1(2, 2)
    x = jt.array(np.ones((1, 2, 3, 3), np.float32))
    modules = {"one": module, "never": conv1x1(1, 1)}
    with pytest.raises(ZeroDivisionError), keep_calls(modules) as calls:
        y = module(x)
        raise ZeroDivisionError
    ((arguments, result),) = calls.values()
    assert list(calls) == ["one"] and arguments[0] is x and result is y
    module(x + 1)
    assert calls["one"][1] is y


def test_the_best_channel_is_where_the_targets_stand_out():
    maps = np.random.default_rng(1).normal(0, 1, (3, 20, 20))
    target = np.zeros((20, 20), bool)
    target[5:7, 8] = True
    maps[1][target] += 8
    maps[2][0, 0] = -30  # a corner, and not the target
    assert best_channel(maps, target) == 1
    assert best_channel(-5 * maps, target) == 1
    assert best_channel(maps, ~target & target) == 2
    assert best_channel(np.zeros((3, 4, 4)), np.ones((4, 4), bool)) == 0
