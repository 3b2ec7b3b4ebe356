"""The page on the differences between the frameworks says what the code does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from scripts import ROOT

from benchmarks import framework_differences as differences

PAGES = [ROOT / "docs" / "differences.md", ROOT / "docs" / "differences.zh-CN.md"]

# Those of the training size take seconds, and show nothing that the others do not.
CHEAP = [entry for entry in differences.DIFFERENCES if "8×16×256×256" not in entry.name]


def page_rows(path):
    """(difference, quantity) → the three cells of the page's table."""
    rows = [line.strip("| \n").split(" | ") for line in path.read_text().splitlines()
            if line.startswith("| ") and line.count("|") == 6]
    return {tuple(row[:2]): row[2:] for row in rows[1:]}


def is_number(cell):
    return re.fullmatch(r"\d\.\de[+-]\d\d", cell) is not None


@pytest.mark.parametrize("entry", CHEAP, ids=lambda entry: entry.name)
def test_the_page_says_what_is_measured(cpu, entry):
    page, results = page_rows(PAGES[0]), differences.measure(entry)
    for quantity, stock, ours, _ in differences.rows(results):
        said_stock, said_ours, _ = page[entry.name, quantity]
        if not is_number(stock):
            assert (stock, ours) == (said_stock, said_ours), quantity
            continue
        # The order of sums depends on the processor, so the size of rounding errors does.
        assert float(ours) < max(10 * float(said_ours), 1e-6), quantity
        if float(said_stock) > 3e-5:
            assert float(stock) > float(said_stock) / 5, quantity


def test_the_pages_have_the_same_rows_and_no_other_than_the_script():
    english, chinese = map(page_rows, PAGES)
    assert english == chinese
    expected = {(entry.name, quantity) for entry in CHEAP for quantity in entry.truth()}
    assert expected <= english.keys()
    names = {entry.name for entry in differences.DIFFERENCES}
    assert {name for name, _ in english} == names


def test_distance_by_hand():
    assert differences.distance(np.float32([1, 2.5]), [1, 2]) == 0.25
    assert differences.distance([0.0, 0.5], [0, 0]) == 0.5


@pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                    reason="PyTorch is not installed (pip install -r requirements-align.txt)")
def test_the_command_prints_all_three():
    run = subprocess.run([sys.executable, "-m", "benchmarks.framework_differences",
                          "--device", "cpu", "--only", "MultiStepLR"],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines() if line[:2] == "| "]
    late, right = "5e-04 5e-04 5e-04 5e-05", "5e-04 5e-04 5e-05 5e-05"
    assert rows[1] == ["MultiStepLR", "rate in epochs 199 to 202", late, right, right]
    assert rows[2][2:] == ["no", "yes", "yes"]
