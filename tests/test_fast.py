"""The fast form of the networks against the plain one and the float64 truth."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import golden
from model import MODEL_NAMES, build_model, fast_form
from model.ops import layout
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module", params=MODEL_NAMES)
def case(request):
    """A network with the weights of its fixture, its fast form, and the fixture."""
    net, fixture = build_model(request.param, dropout=False), golden.load(request.param)
    golden.reset(net, fixture)
    net.eval()
    return net, fast_form(net), fixture


@pytest.mark.parametrize("shape", ["2x64x64", "1x48x80", "8x256x256"])
def test_as_near_to_the_truth_as_parity_asks(case, shape):
    _, fast, fixture = case
    with jt.no_grad():
        output = fast(golden.batch(shape)[0]).numpy()
    ours, official = golden.errors(fixture, shape, {"eval": output})["evaluation output"]
    assert ours <= 3 * official


def test_without_blocks_of_channels(case, monkeypatch):
    """As on a GPU, where activations are N×C×H×W."""
    net, fast, _ = case
    x = golden.batch("1x48x80")[0][:, :, :43, :70]
    with jt.no_grad():
        expected = net(x).numpy()
        monkeypatch.setattr(layout, "has_blocks", lambda: False)
        np.testing.assert_allclose(fast(x).numpy(), expected, atol=1e-5)


def test_later_training_does_not_reach_it(case):
    net, fast, fixture = case
    x = golden.batch("1x48x80")[0]
    with jt.no_grad():
        before = fast(x).numpy()
        for parameter in net.parameters():
            parameter.update(parameter * 0)
        np.testing.assert_array_equal(fast(x).numpy(), before)
    golden.reset(net, fixture)


def test_nan_is_not_hidden(case):
    _, fast, _ = case
    x = golden.batch("1x48x80")[0].numpy()
    x[0, 0, 20, 20] = np.nan
    with jt.no_grad():
        assert np.isnan(fast(jt.array(x)).numpy()).all()
