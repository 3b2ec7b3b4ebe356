"""What docs/house.md promises: a fifth network is a row and a file, and LLSKM can be lifted out."""

from __future__ import annotations

import shutil
import subprocess
import sys

from scripts import ROOT, SIZE, SMALL, checkpoints, common_flags

from utils.data.synthetic import write_sample_dataset

FIFTH = '''
from model.contrast import CHANNELS, ContrastNet
from model.layers import RELU, BatchNorm, ConvStack, conv1x1, conv3x3


class Fifth(ContrastNet):
    """One contrast stage between two convolutions."""

    def __init__(self, kernels):
        super().__init__(kernels)
        c = CHANNELS[0]
        self.stem = ConvStack({0: (conv3x3(1, c, bias=True), BatchNorm(c, RELU))})
        self.last = conv1x1(c, 1, bias=True)

    def logits(self, x):
        return self.last(self.contrast(0, self.stem(x)))
'''

# The row of NETWORKS, and a command line of a script.
RUN = """
import sys
import model
model.NETWORKS["L2SKNet_Fifth"] = model.Network("fifth", "Fifth", "2D", 500)
model.MODEL_NAMES = tuple(model.NETWORKS)
import importlib
from utils import cli
cli.run(importlib.import_module(sys.argv.pop(1)).main)
"""


def test_a_fifth_network_trains_predicts_and_is_refused_where_it_has_no_counterpart(tmp_path):
    (tmp_path / "fifth.py").write_text(FIFTH)
    write_sample_dataset(tmp_path / "data" / "Tiny", 4, 2, SIZE)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n{RUN}"

    def run(*words):
        return subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path,
                              capture_output=True, text=True)

    flags = common_flags(tmp_path, "--model_name", "L2SKNet_Fifth")
    trained = run("train_device0", *flags, *map(str, SMALL), "--epochs", "1")
    assert trained.returncode == 0 and "finished: " in trained.stdout, trained.stderr
    tested = run("test", *flags)
    assert tested.returncode == 0, tested.stderr
    assert len(list((tmp_path / "out").rglob("*.mat"))) == 2, tested.stdout
    best = checkpoints(tmp_path, "L2SKNet_Fifth") / "best.npz"
    written = run("convert_weights", best, "fifth.onnx")
    assert written.returncode == 2 and "no rule writes a Fifth as ONNX" in written.stderr
    compared = run("alignment.__main__", *flags)
    assert compared.returncode == 2 and "has no official PyTorch code" in compared.stderr


def test_llskm_works_outside_the_project(tmp_path):
    package = tmp_path / "lifted"
    package.mkdir()
    for name in ("llskm.py", "layers.py"):
        shutil.copy(ROOT / "model" / name, package)
    shutil.copytree(ROOT / "model/ops", package / "ops", ignore=shutil.ignore_patterns("__py*"))
    code = """
import numpy as np
import jittor as jt
from lifted.llskm import LLSKM, LLSKM1D
for block in LLSKM(16, 5, dilation=2), LLSKM1D(16, 9):
    x = jt.array(np.random.rand(2, 16, 12, 10).astype(np.float32))
    y = block(x, x.mean((2, 3), keepdims=True).float64())
    gradient = jt.grad(y.sum(), block.attn.avg_channel[0].weight).numpy()
    assert y.shape == x.shape and np.isfinite(y.numpy()).all() and abs(gradient).max() > 0
print("lifted")
"""
    # Where its Jittor comes from is the other project's business: here from this one's start.
    start = f"""
import sys
sys.path.append({str(ROOT)!r})
from utils import runtime
runtime.start("cpu")
sys.path.remove({str(ROOT)!r})
for name in [name for name in sys.modules if name.partition(".")[0] == "utils"]:
    del sys.modules[name]
"""
    done = subprocess.run([sys.executable, "-c", start + code], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0 and "lifted" in done.stdout, done.stderr
