"""loss_curves.py through its command line: which logs it takes, what it draws and says."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from PIL import Image

import loss_curves
from utils.errors import UserError
from utils.report import curves
from utils.training.logs import EpochRecord, write_log

MODELS = ["L2SKNet_UNet", "L2SKNet_FPN", "L2SKNet_1D_UNet", "L2SKNet_1D_FPN"]


def run(epochs, level=1.0):
    """A history whose loss falls from `level` and whose mIoU rises."""
    return [
        EpochRecord(e, level / e, "Aug  2 04:31:35", 0.9, 1 - 1 / (e + 1), 0.9, 1e-5, 0.9)
        for e in epochs
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The epochs and losses handed to the drawing function, by file and model."""
    seen = {}

    def save_curves(path, histories, title):
        seen[path.name] = {name: {record.epoch: record.loss for record in records}
                           for name, records in histories.items()}

    monkeypatch.setattr(curves, "save_curves", save_curves)
    return seen


def read_picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def colors(path):
    """The set of RGB colours of more than ten pixels in a picture."""
    pixels = read_picture(path).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {"#" + bytes(value).hex().upper() for value in values[counts > 10]}


def test_command_line_draws_the_four_models(tmp_path, capsys):
    for model in MODELS:
        write_log(tmp_path / "log" / f"NUDT-SIRST_{model}_20250802_043135.txt", run(range(1, 4)))
    loss_curves.main(["--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    folder = tmp_path / "loss_curves" / "Jittor"
    names = [f"{model}_loss_curve.png" for model in MODELS] + ["nudt_sirst_comparison.png"]
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        assert str(folder / name) in printed
        with Image.open(folder / name) as image:
            assert image.width == 1050  # 3.5 inches at 300 dots per inch
            assert round(image.info["dpi"][0]) == 300


def test_no_logs_is_one_line_that_says_where_and_what_to_run(tmp_path):
    with pytest.raises(UserError, match="run_train.py") as error:
        loss_curves.main(["--output_dir", str(tmp_path)])
    assert str(tmp_path / "log") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "loss_curves").exists()


def test_official_logs_by_name_go_to_their_framework(tmp_path):
    log = tmp_path / "official" / "IRSTD-1K_L2SKNet_FPN_Fri_Aug__2_04_31_35_2024.txt"
    write_log(log, run([1, 2]))
    other = tmp_path / "official" / "mine.txt"
    write_log(other, run([1]))
    arguments = [str(log), str(other), "--dataset_name", "IRSTD-1K", "--framework", "PyTorch"]
    loss_curves.main([*arguments, "--output_dir", str(tmp_path)])
    assert sorted(os.listdir(tmp_path / "loss_curves" / "PyTorch")) == [
        "L2SKNet_FPN_loss_curve.png",
        "irstd_1k_comparison.png",
        "mine_loss_curve.png",
    ]


def test_a_folder_gives_the_chosen_datasets_and_models_only(tmp_path, drawn):
    for name in ("NUDT-SIRST_L2SKNet_UNet", "NUDT-SIRST_L2SKNet_FPN", "SIRST_L2SKNet_UNet"):
        write_log(tmp_path / f"{name}_20250802_043135.txt", run([1]))
    (tmp_path / "notes.txt").write_text("no log")
    base = [str(tmp_path), "--output_dir", str(tmp_path / "out")]

    loss_curves.main(base)
    assert list(drawn["nudt_sirst_comparison.png"]) == MODELS[:2]
    drawn.clear()
    loss_curves.main([*base, "--model_name", "L2SKNet_FPN"])
    assert set(drawn) == {"L2SKNet_FPN_loss_curve.png", "nudt_sirst_comparison.png"}
    drawn.clear()
    loss_curves.main([*base, "--dataset_names", "SIRST", "NUDT-SIRST"])
    assert set(drawn) == {
        *("NUDT-SIRST_L2SKNet_UNet_loss_curve.png", "NUDT-SIRST_L2SKNet_FPN_loss_curve.png"),
        *("SIRST_L2SKNet_UNet_loss_curve.png", "nudt_sirst_comparison.png"),
        "sirst_comparison.png",
    }
    with pytest.raises(UserError, match="there are logs of NUDT-SIRST, SIRST"):
        loss_curves.main([*base, "--dataset_name", "MWIRST"])


def test_a_resumed_run_is_joined(tmp_path, drawn, capsys):
    log = tmp_path / "log" / "NUDT-SIRST_L2SKNet_UNet_Fri_Aug__2_04_31_35_2024.txt"
    # The name that sorts last is the older one: dates decide, not letters.
    write_log(log, run([1, 2, 3]))
    write_log(log.with_name("NUDT-SIRST_L2SKNet_UNet_20250101_000000.txt"), run([3, 4], level=4))
    loss_curves.main(["--output_dir", str(tmp_path)])
    assert drawn["L2SKNet_UNet_loss_curve.png"]["L2SKNet_UNet"] == pytest.approx(
        {1: 1.0, 2: 0.5, 3: 1.333333, 4: 1.0}
    )
    assert "runs in" not in capsys.readouterr().out


def test_of_several_runs_the_newest_is_drawn(tmp_path, drawn, capsys):
    for stamp, epochs in (("20250101_000000", range(1, 9)), ("20250102_000000", [1, 2])):
        write_log(tmp_path / "log" / f"NUDT-SIRST_L2SKNet_UNet_{stamp}.txt", run(epochs))
    loss_curves.main(["--output_dir", str(tmp_path)])
    assert list(drawn["L2SKNet_UNet_loss_curve.png"]["L2SKNet_UNet"]) == [1, 2]
    lines = [line for line in capsys.readouterr().out.splitlines() if "runs in" in line]
    assert len(lines) == 1 and "2 runs" in lines[0] and "20250102_000000" in lines[0]


def test_labels_draw_the_logs_over_each_other(tmp_path, drawn, capsys):
    paths = [str(tmp_path / f"NUDT-SIRST_L2SKNet_UNet_2025010{i}_000000.txt") for i in (1, 2)]
    for path, level in zip(paths, (1, 4)):
        write_log(path, run([1, 2], level))
    out = ["--framework", "tries", "--output_dir", str(tmp_path)]
    loss_curves.main([*paths, *out, "--labels", "plain", "with flips"])
    assert drawn == {"plain_with_flips_comparison.png": {"plain": {1: 1.0, 2: 0.5},
                                                         "with flips": {1: 4.0, 2: 2.0}}}
    assert str(tmp_path / "loss_curves" / "tries") in capsys.readouterr().out
    for labels in (["plain"], ["plain", "plain"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="one label for each"):
            loss_curves.main([*paths, *out, "--labels", *labels])
    with pytest.raises(UserError, match="absent.txt"):
        loss_curves.main([paths[0], "absent.txt", *out, "--labels", "a", "b"])


def test_an_empty_log_is_skipped_in_a_folder_and_an_error_by_name(tmp_path, drawn, capsys):
    empty = tmp_path / "log" / "NUDT-SIRST_L2SKNet_FPN_20250101_000000.txt"
    write_log(empty, [])
    write_log(empty.with_name("NUDT-SIRST_L2SKNet_UNet_20250101_000000.txt"), run([1]))
    loss_curves.main(["--output_dir", str(tmp_path)])
    assert list(drawn["nudt_sirst_comparison.png"]) == ["L2SKNet_UNet"]
    assert str(empty) in capsys.readouterr().out
    with pytest.raises(UserError, match="no epoch"):
        loss_curves.main([str(empty), "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="absent.txt"):
        loss_curves.main([str(tmp_path / "absent.txt"), "--output_dir", str(tmp_path)])


def test_every_model_has_its_colour_and_miou_a_panel_where_a_run_is_scored(tmp_path):
    histories = {model: run([1, 2], level=i + 1) for i, model in enumerate(MODELS)}
    curves.save_curves(tmp_path / "all.png", histories, "NUDT-SIRST")
    assert {style["color"] for style in curves.STYLES[:4]} <= colors(tmp_path / "all.png")
    unscored = {model: [EpochRecord(1, 0.9), EpochRecord(2, 0.8)] for model in MODELS}
    curves.save_curves(tmp_path / "one.png", {**unscored, MODELS[0]: run([1, 2])}, "one")
    curves.save_curves(tmp_path / "none.png", unscored, "none")
    every, one, none = (len(read_picture(tmp_path / f"{name}.png"))
                        for name in ("all", "one", "none"))
    assert every == one > 1.3 * none  # loss twice, and mIoU
    curves.save_curves(tmp_path / "dot.png", {"run": [EpochRecord(1, 0.9)]}, "a single epoch")
    assert curves.STYLES[0]["color"] in colors(tmp_path / "dot.png")


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_odd_losses_are_drawn_without_complaint(tmp_path):
    histories = {}
    for losses in ([math.nan, math.inf], [0.0, 0.0], [0.5, 0.5], [1.0, math.nan, 0.5, 0.0, 1e-7]):
        name = f"odd {len(histories)}"
        histories[name] = [EpochRecord(10 + i, loss) for i, loss in enumerate(losses)]
        curves.save_curves(tmp_path / "odd.png", {name: histories[name]}, "odd")
        assert read_picture(tmp_path / "odd.png").shape[1] == 1050
    curves.save_curves(tmp_path / "all.png", {**histories, "b": run([1])}, "odd")
    assert curves.STYLES[4]["color"] in colors(tmp_path / "all.png")
