"""Alignment with PyTorch: the twin, the comparison, its report."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from scripts import ROOT

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed (pip install -r requirements-align.txt)",
)


@needs_torch
def test_the_twin_is_the_official_network():
    script = ROOT / "tests" / "twin_golden.py"
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report) == 4
    for model, found in report.items():
        ours, official = found["parameters"]
        assert ours == official, model
        for name, (error, _) in found["torch.float64"].items():
            assert error < 1e-10, f"{model} {name}"
        for name, (error, official) in found["torch.float32"].items():
            assert error < 2 * official, f"{model} {name}"
