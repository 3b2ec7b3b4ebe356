"""Paths below --output_dir, and the words that count up what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils import places
from utils.errors import listed

OUT, DATA, MODEL = "out", "SET.v1", "net.v2"  # no part of a name is a suffix


def test_names_with_dots_stay_whole():
    folder = places.predictions(OUT, DATA)
    found = [
        places.log_file(OUT, DATA, MODEL, "now"),
        places.checkpoint_folder(OUT, DATA, MODEL) / places.BEST,
        places.checkpoint_folder(OUT, DATA),
        places.loss_curve(places.loss_curve_folder(OUT), MODEL),
        places.loss_comparison(places.loss_curve_folder(OUT, "PyTorch"), "NUDT-SIRST"),
        places.img_folder(folder, MODEL),
        places.mat_folder(folder, MODEL),
        places.overlay_folder(folder, MODEL),
        *places.detections(folder, MODEL),
        places.coco(folder, MODEL),
        places.report(OUT, DATA, MODEL, "now"),
        places.roc(OUT, DATA, MODEL),
        places.per_image(OUT, DATA, MODEL),
        *places.table(OUT, DATA),
        *places.table(OUT, DATA, trained=False),
        *places.score_curves(OUT, DATA),
        *places.score_curves(OUT, DATA, MODEL),
        *places.qualitative(OUT, DATA),
        *places.qualitative(OUT, DATA, surface=True),
        places.worst_folder(OUT, DATA, MODEL),
        places.page(OUT, DATA),
    ]
    assert [path.as_posix() for path in found] == [
        "out/log/SET.v1_net.v2_now.txt",
        "out/model/checkpoints/SET.v1/net.v2/best.npz",
        "out/model/checkpoints/SET.v1",
        "out/loss_curves/Jittor/net.v2_loss_curve.png",
        "out/loss_curves/PyTorch/nudt_sirst_comparison.png",
        "out/result/SET.v1/img/net.v2",
        "out/result/SET.v1/mat/net.v2",
        "out/result/SET.v1/overlay/net.v2",
        "out/result/SET.v1/detections/net.v2.csv",
        "out/result/SET.v1/detections/net.v2.json",
        "out/result/SET.v1/detections/net.v2.coco.json",
        "out/result/SET.v1_net.v2_now.txt",
        "out/result/SET.v1_net.v2.mat",
        "out/result/SET.v1_net.v2_per_image.csv",
        "out/result/SET.v1_comparison.md",
        "out/result/SET.v1_comparison.csv",
        "out/result/SET.v1_models.md",
        "out/result/SET.v1_models.csv",
        "out/result/SET.v1_curves.png",
        "out/result/SET.v1_curves.pdf",
        "out/result/SET.v1_net.v2_curves.png",
        "out/result/SET.v1_net.v2_curves.pdf",
        "out/result/SET.v1_qualitative.png",
        "out/result/SET.v1_qualitative.pdf",
        "out/result/SET.v1_qualitative_3d.png",
        "out/result/SET.v1_qualitative_3d.pdf",
        "out/result/SET.v1/worst/net.v2",
        "out/result/SET.v1_report.html",
    ]


def test_a_star_makes_a_pattern(tmp_path):
    for name in "AB":
        path = places.page(tmp_path, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = Path(tmp_path).glob(str(places.page("", "*")))
    assert sorted(path.name for path in found) == ["A_report.html", "B_report.html"]


@pytest.mark.parametrize(("what", "name"), [
    ("NUDT-SIRST", "nudt_sirst"), ("_A__b c", "_a_b_c"), ("v1.0 vs. v1.1", "v1.0_vs._v1.1"),
    ("红外-数据", "红外_数据"), ("舰船", "舰船"),
])
def test_datasets_and_labels_keep_their_letters(what, name):
    assert places.loss_comparison(Path(), what) == Path(f"{name}_comparison.png")


@pytest.mark.parametrize(
    ("number", "options", "text"),
    [
        (0, {}, ""),
        (5, {}, "0, 1, 2, 3, 4"),
        (6, {}, "0, 1, 2, 3, 4, and 1 more"),
        (9, {"shown": 2, "separator": "; "}, "0; 1; and 7 more"),
        (3, {"shown": 1, "kind": "files"}, "0, and 2 more files"),
    ],
)
def test_first_few_and_how_many_more(number, options, text):
    assert listed([str(index) for index in range(number)], **options) == text
