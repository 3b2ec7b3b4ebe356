"""Paths below --output_dir."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.paths import Paths, PredictionPaths


def test_names_with_dots_stay_whole():
    paths, found = Paths("out"), PredictionPaths(Path("out"), "net.v2")
    assert paths.log("SET.v1", "net.v2", "now").name == "SET.v1_net.v2_now.txt"
    assert paths.page("SET.v1").name == "SET.v1_report.html"
    assert [path.name for path in paths.table("SET.v1")] == [
        "SET.v1_comparison.md", "SET.v1_comparison.csv"]
    assert found.detections(".coco.json").name == "net.v2.coco.json"


def test_a_star_makes_a_pattern(tmp_path):
    for name in "AB":
        path = Paths(tmp_path).page(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = Path(tmp_path).glob(str(Paths("").page("*")))
    assert sorted(path.name for path in found) == ["A_report.html", "B_report.html"]


@pytest.mark.parametrize(("what", "name"), [
    ("NUDT-SIRST", "nudt_sirst"), ("_A__b c", "_a_b_c"), ("v1.0 vs. v1.1", "v1.0_vs._v1.1"),
    ("红外-数据", "红外_数据"), ("舰船", "舰船"),
])
def test_datasets_and_labels_keep_their_letters(what, name):
    assert Paths("").loss_comparison("Jittor", what).name == f"{name}_comparison.png"
