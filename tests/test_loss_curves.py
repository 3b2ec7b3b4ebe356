"""loss_curves.py through its command line: which logs it takes, what it draws and says."""

from __future__ import annotations

import contextlib
import io
import math
import os

import pytest
from PIL import Image
from scripts import complaint, is_of

import loss_curves
from utils.errors import UserError
from utils.report import curves
from utils.training.logs import EpochRecord, write_log

MODELS = ["L2SKNet_UNet", "L2SKNet_FPN", "L2SKNet_1D_UNet", "L2SKNet_1D_FPN"]
UNET = "NUDT-SIRST_L2SKNet_UNet"


def run(epochs, level=1.0):
    """A history whose loss falls from `level` and whose mIoU rises."""
    return [
        EpochRecord(e, level / e, "Aug  2 04:31:35", 0.9, 1 - 1 / (e + 1), 0.9, 1e-5, 0.9)
        for e in epochs
    ]


@pytest.fixture
def draw(tmp_path):
    """Runs the script with output to tmp_path; returns what it prints."""

    def main(*words):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            loss_curves.main([*map(str, words), "--output_dir", str(tmp_path)])
        return printed.getvalue()

    return main


@pytest.fixture
def drawn(monkeypatch):
    """The epochs and losses handed to the drawing function, by file and model."""
    seen = {}

    def save_curves(path, histories, title):
        seen[path.name] = {name: {record.epoch: record.loss for record in records}
                           for name, records in histories.items()}

    monkeypatch.setattr(curves, "save_curves", save_curves)
    return seen


def size_of(path):
    with Image.open(path) as image:
        return image.size


def shows(path, styles):
    """True if a picture has more than ten pixels of the colour of each style."""
    with Image.open(path) as image:
        return all(is_of(image, style["color"]).sum() > 10 for style in styles)


def test_command_line_draws_the_four_models(tmp_path, draw):
    for model in MODELS:
        write_log(tmp_path / "log" / f"NUDT-SIRST_{model}_20250802_043135.txt", run(range(1, 4)))
    printed = draw()
    folder = tmp_path / "loss_curves" / "Jittor"
    names = [f"{model}_loss_curve.png" for model in MODELS] + ["nudt_sirst_comparison.png"]
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        assert str(folder / name) in printed
        with Image.open(folder / name) as image:
            assert image.width == 1050  # 3.5 inches at 300 dots per inch
            assert round(image.info["dpi"][0]) == 300


def test_no_logs_is_one_line_that_says_where_and_what_to_run(tmp_path, draw):
    message = complaint(draw)
    assert str(tmp_path / "log") in message and "run_train.py" in message
    assert not (tmp_path / "loss_curves").exists()


def test_official_logs_by_name_go_to_their_framework(tmp_path, draw):
    log = tmp_path / "official" / "IRSTD-1K_L2SKNet_FPN_Fri_Aug__2_04_31_35_2024.txt"
    other = log.with_name("mine.txt")
    write_log(log, run([1, 2]))
    write_log(other, run([1]))
    draw(log, other, "--dataset_name", "IRSTD-1K", "--framework", "PyTorch")
    assert sorted(os.listdir(tmp_path / "loss_curves" / "PyTorch")) == [
        "L2SKNet_FPN_loss_curve.png", "mine_loss_curve.png"]


def test_a_folder_gives_the_chosen_datasets_and_models_only(tmp_path, draw, drawn):
    for name in (UNET, "NUDT-SIRST_L2SKNet_FPN", "SIRST_L2SKNet_UNet"):
        write_log(tmp_path / f"{name}_20250802_043135.txt", run([1]))
    (tmp_path / "notes.txt").write_text("no log")

    draw(tmp_path)
    assert list(drawn["nudt_sirst_comparison.png"]) == MODELS[:2]
    for flags, files in (
        (("--model_name", "L2SKNet_FPN"),
         {"L2SKNet_FPN_loss_curve.png"}),
        (("--dataset_names", "SIRST", "NUDT-SIRST"),
         {f"{UNET}_loss_curve.png", "NUDT-SIRST_L2SKNet_FPN_loss_curve.png",
          "SIRST_L2SKNet_UNet_loss_curve.png", "nudt_sirst_comparison.png"}),
    ):
        drawn.clear()
        draw(tmp_path, *flags)
        assert set(drawn) == files
    with pytest.raises(UserError, match="there are logs of NUDT-SIRST, SIRST"):
        draw(tmp_path, "--dataset_name", "MWIRST")


def test_a_resumed_run_is_joined_and_of_several_the_newest_is_drawn(tmp_path, draw, drawn):
    # The name that sorts last is the older one: dates decide, not letters.
    write_log(tmp_path / "log" / f"{UNET}_Fri_Aug__2_04_31_35_2024.txt", run([1, 2, 3]))
    write_log(tmp_path / "log" / f"{UNET}_20250101_000000.txt", run([3, 4], level=4))
    assert "runs in" not in draw()
    assert drawn["L2SKNet_UNet_loss_curve.png"]["L2SKNet_UNet"] == pytest.approx(
        {1: 1.0, 2: 0.5, 3: 1.333333, 4: 1.0})
    write_log(tmp_path / "log" / f"{UNET}_20250102_000000.txt", run([1, 2]))
    lines = [line for line in draw().splitlines() if "runs in" in line]
    assert list(drawn["L2SKNet_UNet_loss_curve.png"]["L2SKNet_UNet"]) == [1, 2]
    assert len(lines) == 1 and "2 runs" in lines[0] and "20250102_000000" in lines[0]


def test_labels_draw_the_logs_over_each_other(tmp_path, draw, drawn):
    paths = [tmp_path / f"{UNET}_2025010{i}_000000.txt" for i in (1, 2)]
    for path, level in zip(paths, (1, 4)):
        write_log(path, run([1, 2], level))
    printed = draw(*paths, "--framework", "tries", "--labels", "plain", "with flips")
    assert drawn == {"plain_with_flips_comparison.png": {"plain": {1: 1.0, 2: 0.5},
                                                         "with flips": {1: 4.0, 2: 2.0}}}
    assert str(tmp_path / "loss_curves" / "tries") in printed
    for labels in (["plain"], ["plain", "plain"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="one label for each"):
            draw(*paths, "--labels", *labels)
    with pytest.raises(UserError, match="absent.txt"):
        draw(paths[0], "absent.txt", "--labels", "a", "b")


def test_an_empty_log_is_skipped_in_a_folder_and_an_error_by_name(tmp_path, draw, drawn):
    empty = tmp_path / "log" / "NUDT-SIRST_L2SKNet_FPN_20250101_000000.txt"
    write_log(empty, [])
    write_log(empty.with_name(f"{UNET}_20250101_000000.txt"), run([1]))
    assert str(empty) in draw()
    assert list(drawn) == ["L2SKNet_UNet_loss_curve.png"]
    for path, says in ((empty, "no epoch"), (tmp_path / "absent.txt", "absent.txt")):
        with pytest.raises(UserError, match=says):
            draw(path)


def test_every_model_has_its_colour_and_miou_a_panel_where_a_run_is_scored(tmp_path):
    histories = {model: run([1, 2], level=i + 1) for i, model in enumerate(MODELS)}
    curves.save_curves(tmp_path / "all.png", histories, "NUDT-SIRST")
    assert shows(tmp_path / "all.png", curves.STYLES[:4])
    unscored = {model: [EpochRecord(1, 0.9 - i / 10)] for i, model in enumerate(MODELS)}
    curves.save_curves(tmp_path / "one.png", {**unscored, MODELS[0]: run([1, 2])}, "one")
    curves.save_curves(tmp_path / "none.png", unscored, "none")  # a single epoch: dots
    assert shows(tmp_path / "none.png", curves.STYLES[:4])
    every, one, none = (size_of(tmp_path / f"{name}.png")[1]
                        for name in ("all", "one", "none"))
    assert every == one > 1.3 * none  # loss twice, and mIoU


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_odd_losses_are_drawn_without_complaint(tmp_path):
    histories = {}
    for losses in ([math.nan, math.inf], [0.0, 0.0], [0.5, 0.5], [1.0, math.nan, 0.5, 0.0, 1e-7]):
        name = f"odd {len(histories)}"
        histories[name] = [EpochRecord(10 + i, loss) for i, loss in enumerate(losses)]
        curves.save_curves(tmp_path / "odd.png", {name: histories[name]}, "odd")
        assert size_of(tmp_path / "odd.png")[0] == 1050
    curves.save_curves(tmp_path / "all.png", {**histories, "b": run([1])}, "odd")
    assert shows(tmp_path / "all.png", curves.STYLES[4:5])
