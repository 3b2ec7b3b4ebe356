"""Matplotlib for files only: the same figures whatever the environment says.

Neither $MPLBACKEND (notebooks name a module there that need not be installed) nor a matplotlibrc
counts, and there is no pyplot. Matplotlib is imported when a figure is made.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fonts of Chinese, Japanese and Korean text that systems have, the best one first; any other
# installed font that has the characters is taken after them.
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei",
    "PingFang SC", "Heiti SC", "Droid Sans Fallback", "Arial Unicode MS",
)
_named: set[str] = set()  # characters without a font that the user has been told of


@contextmanager
def settings(rc: Mapping[str, Any]) -> Iterator[None]:
    """Draws a block with Matplotlib's own defaults and `rc` alone."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(rc)
        yield


def save_figure(figure: Figure, path: str | Path, dpi: int) -> None:
    """Writes a figure, whole or not at all; the suffix chooses the format.

    Characters that the figure's font lacks are taken from an installed font that has them. Where
    there is none, boxes stand for them, and one line says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    _add_fonts(figure)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from ")
        figure.savefig(temporary, dpi=dpi)


def _add_fonts(figure):
    """Gives the texts that need it a second font."""
    from matplotlib.font_manager import findfont
    from matplotlib.text import Text

    lacking = {}
    for text in figure.findobj(Text):
        own = _characters(findfont(text.get_fontproperties()))
        lacking[text] = set(filter(str.isprintable, text.get_text())) - own
    missing = set().union(*lacking.values())
    if not missing:
        return
    font, has = _font_with(missing)
    for text, characters in lacking.items():
        if characters & has:
            text.set_fontfamily([*text.get_fontfamily(), font])
    missing -= has | _named
    if missing:
        _named.update(missing)
        print(f"no installed font has {''.join(sorted(missing))}: boxes stand for them in the "
              "figure; install one (apt-get install fonts-noto-cjk)", flush=True)


def _characters(path):
    """The characters that a file of a font has."""
    from matplotlib.font_manager import get_font

    return set(map(chr, get_font(path).get_charmap()))


def _font_with(characters):
    """The name of the installed font that has the most of them, and which those are."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}:
        with suppress(OSError, RuntimeError):  # Matplotlib's list is of an earlier day
            fontManager.addfont(path)
    rank = {name: place for place, name in enumerate(CJK_FONTS)}
    best = "", set()
    for entry in sorted(fontManager.ttflist, key=lambda entry: rank.get(entry.name, len(rank))):
        # "Last Resort" comes with Matplotlib, and has a box for every character.
        if "Last Resort" not in entry.name and best[1] != characters:
            with suppress(OSError, RuntimeError):  # a font that is gone, or damaged
                has = characters & _characters(entry.fname)
                best = max(best, (entry.name, has), key=lambda found: len(found[1]))
    return best
