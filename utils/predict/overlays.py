"""Draws rings around small targets, and one of them enlarged in a corner (the inset).

With Pillow, because Matplotlib takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import ceil, floor, hypot
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from utils.data.images import stretch
from utils.predict.detections import Detection

# Not the colours of utils.report.panels: without a mask a detection is neither hit nor miss.
DETECTION, INSET = "#ff9d2e", "#58a6ff"
LONGER_SIDE, LARGEST_SCALE = 512, 8  # small images are enlarged to about this longer side
LARGE_RING = 512  # pixels of the canvas
WHOLE, DASHES = ((0, 360),), [(angle, angle + 25) for angle in range(0, 360, 40)]


class Ring(NamedTuple):
    """A circle around a region of an image; `extent` is the diagonal of the region in pixels."""

    row: float
    column: float
    extent: float
    color: str
    dashed: bool = False


class Inset(NamedTuple):
    """A window of `side` pixels of the image, enlarged `zoom` times.

    `corner` is its upper left corner on the canvas, `hidden` the number of rings below it.
    """

    left: int
    top: int
    side: int
    zoom: int
    corner: tuple[int, int]
    hidden: int


def draw_overlay(image: np.ndarray, detections: Sequence[Detection]) -> Image.Image:
    """Draws an image with its detections circled and the strongest one enlarged.

    Args:
        image: H×W of any range; its grey levels are stretched.
        detections: sorted by `find_detections`, the strongest first.
    """
    scale = min(max(ceil(LONGER_SIDE / max(image.shape)), 1), LARGEST_SCALE)
    rings = [Ring(each.y, each.x, hypot(each.x_max - each.x_min + 1, each.y_max - each.y_min + 1),
                  DETECTION) for each in detections]
    inset = place_inset(image.shape, scale, rings[0], rings) if rings else None
    return paint(stretch(image), scale, rings, None if inset and inset.hidden else inset)


def paint(
    image: np.ndarray, scale: int, rings: Iterable[Ring], inset: Inset | None = None,
    bold: float = 1,
) -> Image.Image:
    """Draws an image in [0, 1], `scale` times as large, with rings and an inset.

    Args:
        rings: their size and stroke grow with the canvas.
        inset: its window is framed as well; None for no inset.
        bold: a factor on the width of lines and on the smallest ring.
    """
    gray = Image.fromarray(np.uint8(np.rint(255 * image)))
    unit = _unit(image.shape, scale, bold)
    canvas = _painted(gray, scale, rings, (0, 0), unit)
    if inset:
        left, top, side, zoom, corner, _ = inset
        inside = [ring for ring in rings
                  if left <= ring.column < left + side and top <= ring.row < top + side]
        part = _painted(gray.crop((left, top, left + side, top + side)), zoom, inside,
                        (left, top), unit)
        _draw_frame(part, 0, 0, part.width, unit)
        _draw_frame(canvas, left * scale, top * scale, side * scale, unit)
        canvas.paste(part, corner)
    return canvas


def place_inset(
    shape: tuple[int, int], scale: int, focus: Ring, rings: Sequence[Ring], bold: float = 1
) -> Inset | None:
    """Finds the corner where an inset hides the fewest rings; of several corners the farthest.

    Args:
        shape: height and width of the image.
        scale, bold: of `paint`.
        focus: what the inset enlarges.
        rings: all rings of the image.

    Returns:
        The inset; None if it would enlarge nothing.
    """
    height, width = shape
    short = min(shape)
    side = 2 * ceil(max(8, min(12, short / 8), short / 64, 1.2 * focus.extent))
    zoom = int(0.42 * short * scale / side)
    if side > short or zoom <= scale:
        return None
    left, top = (int(min(max(round(c) - side // 2, 0), n - side))
                 for c, n in ((focus.column, width), (focus.row, height)))
    size = side * zoom / scale  # in pixels of the image
    reach = size / 2 + 8 * _unit(shape, scale, bold) / scale  # a ring beside the inset stays whole
    choices = []
    for x, y in product((0, width - size), (0, height - size)):
        row, column = y + size / 2, x + size / 2
        hidden = sum(max(abs(ring.row - row), abs(ring.column - column)) <= reach
                     for ring in rings)
        distance = hypot(focus.row - row, focus.column - column)
        choices.append((hidden, -distance, (round(x * scale), round(y * scale))))
    hidden, _, corner = min(choices)
    return Inset(left, top, side, zoom, corner, hidden)


def _unit(shape: tuple[int, int], scale: int, bold: float) -> float:
    return bold * max(max(shape) * scale / LONGER_SIDE, 1)


def _painted(gray, scale, rings, origin, unit):
    """An enlarged image with rings; `origin` (column, row) is its upper left pixel."""
    size = gray.width * scale, gray.height * scale
    canvas = gray.resize(size, Image.Resampling.NEAREST).convert("RGB")
    for ring in rings:
        x, y = ((c - o + 0.5) * scale for c, o in zip((ring.column, ring.row), origin))
        radius, stroke = max(ring.extent / 2 * scale + 3 * unit, 8 * unit), 1.9 * unit
        # Drawn enlarged on a patch of its own, because Pillow's lines are not smooth.
        half = ceil(radius + stroke) + 1
        fine = 4 if half < LARGE_RING else 1  # the patch of a cloud's edge may take gigabytes
        left, top = floor(x) - half, floor(y) - half
        mask = Image.new("L", (2 * half * fine, 2 * half * fine))
        box = [fine * (c + sign * radius) for sign in (-1, 1) for c in (x - left, y - top)]
        for start, end in DASHES if ring.dashed else WHOLE:
            ImageDraw.Draw(mask).arc(box, start, end, fill=255, width=round(fine * stroke))
        mask = mask.resize((2 * half, 2 * half), Image.Resampling.BOX)
        canvas.paste(ring.color, (left, top), mask)
    return canvas


def _draw_frame(canvas, x, y, size, unit):
    ImageDraw.Draw(canvas).rectangle((x, y, x + size - 1, y + size - 1), None, INSET,
                                     ceil(1.3 * unit))
