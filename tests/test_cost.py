"""benchmarks/cost.py: the counts are the known ones, and the table is complete."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scripts import ROOT

from benchmarks import cost
from model import MODEL_NAMES, build_model
from model.blocks import conv1x1
from model.llskm import LLSKM, LLSKM1D
from model.ops.elementwise import global_average
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.mark.parametrize(
    ("name", "parameters", "gmac"),
    [
        ("L2SKNet_UNet", 898_913, 7.149),
        ("L2SKNet_FPN", 1_071_053, 6.256),
        ("L2SKNet_1D_UNet", 818_849, 5.975),
        ("L2SKNet_1D_FPN", 990_989, 5.082),
    ],
)
def test_official_counts(name, parameters, gmac):
    net = build_model(name)
    assert cost.count_parameters(net) == parameters
    net.eval()
    official, ours = cost.count_gmac(net, 256, 256)
    assert round(official, 3) == gmac
    larger = cost.count_gmac(net, 512, 512)[0]
    assert larger / official == pytest.approx(4, rel=1e-3)  # all but θ grows with the pixels
    assert 0.9 < ours / official < 1.01


class _Block(jt.Module):
    """A block of the networks, as a network of one channel."""

    multiple = 1

    def __init__(self, block):
        self.block = block

    def execute(self, x):
        x = x.broadcast([1, 8, *x.shape[2:]])
        if isinstance(self.block, (LLSKM, LLSKM1D)):
            return self.block(x, global_average(x))
        return self.block(x)


@pytest.mark.parametrize(
    ("block", "official", "ours"),
    [
        (lambda: LLSKM(8, 5, 2), 25 + 2, 25),
        (lambda: LLSKM1D(8, 9), 2 * 9 + 2, 2 * 9 + 1),
        (lambda: conv1x1(8, 8), 1, 1),
    ],
)
def test_one_block_by_hand(block, official, ours):
    net = _Block(block())
    net.eval()
    theta = 0 if isinstance(net.block, type(conv1x1(1, 1))) else 2 * 8 * 2  # 8 → 2 → 8 channels
    counted = [gmac * 1e9 - theta for gmac in cost.count_gmac(net, 6, 10)]
    assert counted == pytest.approx([n * 8 * 8 * 60 for n in (official, ours)])


def test_the_real_table():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", "--size", "24", "40", "--runs", "1",
         "--device", "cpu"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines() if line[:1] == "|"]
    assert rows[0][:4] == ["model", "parameters", "GMAC official", "GMAC ours"]
    assert [row[0] for row in rows[2:]] == list(MODEL_NAMES)
    assert rows[2][1] == "898,913" and float(rows[2][2]) == round(7.149 * 24 * 40 / 256**2, 3)
    assert all(float(row[4].split()[0]) > 0 for row in rows[2:])
    assert "1x1x24x40" in run.stdout
