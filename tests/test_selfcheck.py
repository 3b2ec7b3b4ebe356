"""The self-check finds operators that compute something else."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import selfcheck
from model.ops import batch_norm, layout, pool, resize
from utils import runtime
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(autouse=True)
def same_precision(cpu):
    """The process goes on in the precision that it had: other tests write it into checkpoints."""
    before = runtime.precision()
    yield
    runtime.start("cpu", before)


def check(monkeypatch, *names):
    """The exit status of the command, reduced to the checks of these names."""
    table = [c for c in selfcheck.operator_checks() if c.name in names]
    assert len(table) == len(names)
    monkeypatch.setattr(selfcheck, "operator_checks", lambda: table)
    monkeypatch.setattr(selfcheck, "MODEL_NAMES", ())
    return selfcheck.main(["--device", "cpu"])


def test_passes_and_says_what_it_checked(monkeypatch, capsys):
    assert check(monkeypatch, "nearest upsampling", "batch norm, ReLU", "random numbers (dropout)",
                 "Adam, three steps", "SoftIoU") == 0
    out = capsys.readouterr().out
    assert "Running on cpu (" in out and "no GPU is used: the CPU against NumPy" in out
    assert out.endswith("\nPASS\n") and "WRONG" not in out


def test_wrong_output_fails(monkeypatch, capsys):
    right = resize.upsample_nearest2x

    def enlarged(x):
        return right(x) * 1.001

    monkeypatch.setattr(resize, "upsample_nearest2x", enlarged)
    assert check(monkeypatch, "nearest upsampling", "sigmoid") == 1
    out = capsys.readouterr().out
    assert "FAIL: nearest upsampling\n" in out and "use_mkl=0" in out


def test_an_error_in_blocks_of_channels_alone_fails(monkeypatch, capsys):
    if not layout.has_blocks():
        pytest.skip("oneDNN has no kernels for blocks on this processor")
    right = pool._MaxPoolCPU.execute
    monkeypatch.setattr(pool._MaxPoolCPU, "execute", lambda self, x: right(self, x) * 1.001)
    assert check(monkeypatch, "max pooling", "sigmoid") == 1
    assert "FAIL: max pooling\n" in capsys.readouterr().out


def test_wrong_gradient_fails(monkeypatch, capsys):
    right = batch_norm._NormCPU.grad

    def wrong(self, dy, *rest):
        dx, dweight, dbias = right(self, dy, *rest)
        return dx, dweight, dbias * 1.001

    monkeypatch.setattr(batch_norm._NormCPU, "grad", wrong)
    assert check(monkeypatch, "batch norm, ReLU") == 1
    assert "FAIL: batch norm, ReLU\n" in capsys.readouterr().out


@pytest.mark.parametrize(("forward", "backward"), [(np.nan, 0), (0, np.nan), (1e-3, 0), (0, 1e-3)])
def test_gpu_that_differs_from_the_cpu_fails(monkeypatch, forward, backward):
    sigmoid = next(c for c in selfcheck.operator_checks() if c.name == "sigmoid")
    output, gradients = sigmoid.compute("cpu")

    def compute(device):
        if device == "cpu":
            return output, gradients
        return output + np.float32(forward), [g + np.float32(backward) for g in gradients]

    monkeypatch.setattr(sigmoid, "compute", compute)
    assert selfcheck.run_checks("cuda", "float32", [sigmoid]) == ["sigmoid"]


def test_networks_gradient_is_the_slope_of_its_loss(monkeypatch):
    network = selfcheck.NetworkCheck("L2SKNet_1D_FPN")
    assert network.against_numpy()[1] < 5e-3
    right = jt.grad
    monkeypatch.setattr(jt, "grad", lambda *args: [g * 1.05 for g in right(*args)])
    assert selfcheck.run_checks("cpu", "float32", [network]) == ["L2SKNet_1D_FPN"]
