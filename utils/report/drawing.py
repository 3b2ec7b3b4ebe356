"""Draws figures into files with Matplotlib, equal in every environment.

Ignores a matplotlibrc and $MPLBACKEND, which in a notebook may name a missing module; does without
pyplot. Matplotlib is imported when a figure is made.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Comes with Matplotlib: the same picture on every machine.
FONT = "DejaVu Sans"
# Fonts of Chinese, Japanese and Korean text that systems have, for characters that FONT lacks.
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei",
    "PingFang SC", "Heiti SC", "Droid Sans Fallback", "Arial Unicode MS",
)
_told: set[str] = set()  # characters without a font that were printed before


@contextmanager
def new_figure(
    paths: Sequence[str | Path], size: tuple[float, float], rc: Mapping[str, Any], dpi: int = 150
) -> Iterator[Figure]:
    """Yields an empty figure, with Matplotlib's own defaults and `rc`; writes it at the end.

    Prints the characters that no installed font has; the figure shows boxes for them.

    Args:
        paths: the files to write, each whole or not at all; the suffix chooses the format.
        size: width and height in inches.
        dpi: dots per inch; a .pdf has 300.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from ")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.family": [FONT, *_installed_fonts()], **rc})
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        yield figure
        for text in figure.findobj(Text):  # a $ in a name begins no formula
            text.set_parse_math("$" not in text.get_text())  # tick labels are still empty
        for path in paths:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=300 if Path(path).suffix == ".pdf" else dpi)
    codes = [re.match(r"Glyph (\d+)", str(warning.message)) for warning in caught]
    missing = {chr(int(code.group(1))) for code in codes if code} - _told
    if missing:
        _told.update(missing)
        print(f"no installed font has {''.join(sorted(missing))}: boxes stand for them in the "
              "figure; install one (apt-get install fonts-noto-cjk)", flush=True)


def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():  # Matplotlib's own list may be old
        if path not in known:
            with suppress(Exception):  # of any kind, from a damaged font
                fontManager.addfont(path)
    names = {entry.name for entry in fontManager.ttflist if os.path.exists(entry.fname)}
    return [name for name in CJK_FONTS if name in names]
