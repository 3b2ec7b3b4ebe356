"""Figures are the same whatever the environment says, and have fonts for Chinese names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scripts import ROOT

from utils.report import drawing
from utils.report.curves import save_curves
from utils.training.logs import EpochRecord

HISTORY = {"plain": [EpochRecord(1, 0.9), EpochRecord(2, 0.5)]}


@pytest.mark.filterwarnings("error")
def test_an_installed_font_has_the_characters_that_ours_lacks_else_one_line_says_so(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("MPLBACKEND")
    from matplotlib import font_manager, get_data_path

    known = [font for font in font_manager.fontManager.ttflist if font.name == drawing.FONT]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setattr(drawing, "_told", set())
    names = dict.fromkeys("ⒶⒷ", HISTORY["plain"])
    for name in "first", "second":
        save_curves(tmp_path / f"{name}.png", names, "数据")
    assert capsys.readouterr().out == (
        "no installed font has ⒶⒷ据数: boxes stand for them in the figure; install one "
        "(apt-get install fonts-noto-cjk)\n")
    # Installed since Matplotlib made its list, and without Chinese.
    monkeypatch.setattr(font_manager, "findSystemFonts",
                        lambda: [f"{get_data_path()}/fonts/ttf/STIXGeneral.ttf"])
    monkeypatch.setattr(drawing, "CJK_FONTS", ("STIXGeneral",))
    monkeypatch.setattr(drawing, "_told", set())
    save_curves(tmp_path / "font.png", names, "数据")
    assert capsys.readouterr().out.startswith("no installed font has 据数: boxes")
    first, second, font = ((tmp_path / f"{name}.png").read_bytes()
                           for name in ("first", "second", "font"))
    assert first == second != font


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    for names in (["a$b"], ["$x_$", r"\$y"]):
        save_curves(tmp_path / "a.png", dict.fromkeys(names, HISTORY["plain"]), "$_$ and 5$")
        assert (tmp_path / "a.png").is_file()
        (tmp_path / "a.png").unlink()


def test_neither_mplbackend_nor_a_matplotlibrc_changes_a_figure(tmp_path):
    code = ("import sys; from utils.report.curves import save_curves; "
            "from utils.training.logs import EpochRecord; save_curves(sys.argv[1], "
            "{'plain': [EpochRecord(1, 0.9), EpochRecord(2, 0.5)]}, 'title')")
    (tmp_path / "matplotlibrc").write_text("backend: tkagg\nfont.size: 30\ntext.usetex: True\n")
    save_curves(tmp_path / "plain.png", HISTORY, "title")
    subprocess.run([sys.executable, "-c", code, tmp_path / "other.png"], check=True,
                   cwd=ROOT, env={"MPLBACKEND": "module://not.installed",
                                  "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "other.png").read_bytes()
