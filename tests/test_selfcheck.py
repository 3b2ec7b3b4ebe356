"""The self-check finds operators that compute something else."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import selfcheck
from model.ops import layout, pool, resize
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
    assert "Running on cpu (" in out and "operators against NumPy in double precision" in out
    assert out.endswith("\nPASS\n") and "WRONG" not in out


def test_every_operator_in_every_form_is_that_of_numpy(monkeypatch):
    monkeypatch.setitem(selfcheck.OPERATOR_BOUNDS, "float32", 5e-6)
    assert selfcheck.run_checks(False, selfcheck.operator_checks()) == []


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


class Spoilt:
    """The table's row of sigmoid, whose results are changed before they are compared."""

    def __init__(self, forward=0.0, backward=0.0):
        self.row = next(c for c in selfcheck.operator_checks() if c.name == "sigmoid")
        self.name, self.backward, self.allowed = "sigmoid", True, self.row.allowed
        self.by = forward, backward

    def build(self):
        forward, backward = map(np.float32, self.by)
        return [(output + forward, [g + backward for g in gradients])
                for output, gradients in self.row.build()]

    def errors(self, built, tf32):
        return self.row.errors(built, tf32)


@pytest.mark.parametrize(("forward", "backward"), [(np.nan, 0), (0, np.nan), (1e-3, 0), (0, 1e-3)])
def test_what_differs_from_numpy_fails(forward, backward):
    assert selfcheck.run_checks(False, [Spoilt(forward, backward)]) == ["sigmoid"]
    in_tf32 = selfcheck.run_checks(True, [Spoilt(forward, backward)])
    assert in_tf32 == (["sigmoid"] if np.isnan(forward + backward) else [])


def test_a_row_that_cannot_run_is_named_and_the_others_are_checked(capsys):
    class Broken(Spoilt):
        def build(self):
            raise RuntimeError("nvcc: no kernel image\nfor this device")

    assert selfcheck.run_checks(False, [Spoilt(), Broken(), Spoilt()]) == ["sigmoid"]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sigmoid")]
    assert len(rows) == 3 and "cannot run: nvcc: no kernel image for this device" in rows[1]
    assert "WRONG" not in rows[0] + rows[2]


def test_a_network_is_held_to_the_official_numbers(monkeypatch, capsys):
    name = "L2SKNet_1D_FPN"
    assert selfcheck.run_checks(False, [selfcheck.NetworkCheck(name)]) == []
    right = jt.grad
    monkeypatch.setattr(jt, "grad", lambda *args: [g * 1.05 for g in right(*args)])
    assert selfcheck.run_checks(False, [selfcheck.NetworkCheck(name)]) == [name]
    assert selfcheck.run_checks(True, [selfcheck.NetworkCheck(name)]) == []  # TF32 could be so far
    monkeypatch.setattr(jt, "grad", lambda *args: [g * np.nan for g in right(*args)])
    assert selfcheck.run_checks(True, [selfcheck.NetworkCheck(name)]) == [name]
