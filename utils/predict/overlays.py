"""The image with its detections circled and the strongest of them enlarged in a corner."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, hypot

import numpy as np
from PIL import Image, ImageDraw

from utils.data.images import stretch
from utils.predict.detections import Detection

# Not the colours of utils.report.panels: without a mask a detection is neither hit nor miss.
DETECTION, INSET = "#ff9d2e", "#58a6ff"
SHORTEST, LARGEST_SCALE = 512, 8  # small images are enlarged to about this longer side


def draw_overlay(image: np.ndarray, detections: Sequence[Detection]) -> Image.Image:
    """Draws what was found in an image; Pillow and not Matplotlib, which takes ten times as long.

    Args:
        image: H×W of any range; shown with its grey levels stretched.
        detections: of `find_detections`, the strongest first.
    """
    height, width = image.shape
    scale = min(max(ceil(SHORTEST / max(height, width)), 1), LARGEST_SCALE)
    gray = Image.fromarray(np.uint8(np.rint(255 * stretch(image))))
    canvas = _enlarge(gray, scale)
    unit = max(max(canvas.size) / SHORTEST, 1)
    for found in detections:
        _ring(canvas, found, (0, 0), scale, unit)
    if detections:
        _draw_inset(canvas, gray, detections, scale, unit)
    return canvas


def _enlarge(gray: Image.Image, scale: int) -> Image.Image:
    size = gray.width * scale, gray.height * scale
    return gray.resize(size, Image.Resampling.NEAREST).convert("RGB")


def _ring(
    canvas: Image.Image, found: Detection, origin: tuple[int, int], scale: int, unit: float
) -> None:
    """A circle around a detection on a canvas that begins at `origin` of the image."""
    x, y = ((c - o + 0.5) * scale for c, o in zip((found.x, found.y), origin))
    extent = hypot(found.x_max - found.x_min + 1, found.y_max - found.y_min + 1)
    radius, stroke = max(extent / 2 * scale + 3 * unit, 9 * unit), 1.5 * unit
    # Drawn four times as large on a patch of its own, since Pillow's lines are not smooth.
    half, fine = ceil(radius + stroke) + 1, 4
    left, top = floor(x) - half, floor(y) - half
    mask = Image.new("L", (2 * half * fine, 2 * half * fine))
    corners = [fine * (c + sign * radius) for sign in (-1, 1) for c in (x - left, y - top)]
    ImageDraw.Draw(mask).ellipse(corners, outline=255, width=round(fine * stroke))
    canvas.paste(DETECTION, (left, top), mask.resize((2 * half, 2 * half), Image.Resampling.BOX))


def _draw_inset(
    canvas: Image.Image, gray: Image.Image, detections: Sequence[Detection], scale: int, unit: float
) -> None:
    """Enlarges the surroundings of the strongest detection, in a corner without any detection."""
    best = detections[0]
    extent = max(best.x_max - best.x_min, best.y_max - best.y_min) + 1
    short = min(gray.size)
    side = 2 * ceil(max(8, min(12, short / 8), short / 64, 1.5 * extent))
    zoom = int(0.36 * min(canvas.size) / side)
    if side > short or zoom <= scale:
        return  # large enough as it is
    left, top = (
        int(min(max(round(c) - side // 2, 0), n - side))
        for c, n in zip((best.x, best.y), gray.size)
    )
    inset = _enlarge(gray.crop((left, top, left + side, top + side)), zoom)
    for found in detections:
        if left <= found.x < left + side and top <= found.y < top + side:
            _ring(inset, found, (left, top), zoom, unit)
    line = ceil(unit)
    ImageDraw.Draw(inset).rectangle((0, 0, inset.width - 1, inset.height - 1), None, INSET, line)

    far = inset.width / scale
    centres = [
        (x, y) for y in (far / 2, gray.height - far / 2) for x in (far / 2, gray.width - far / 2)
    ]
    reach = far / 2 + 9 * unit / scale  # with the rings
    free = [
        (x, y) for x, y in centres
        if all(max(abs(found.x - x), abs(found.y - y)) > reach for found in detections)
    ]
    if not free:
        return
    x, y = max(free, key=lambda centre: hypot(best.x - centre[0], best.y - centre[1]))
    corner = round((x - far / 2) * scale), round((y - far / 2) * scale)
    window = [c * scale for c in (left, top, left + side, top + side)]
    ImageDraw.Draw(canvas).rectangle((*window[:2], window[2] - 1, window[3] - 1), None, INSET, line)
    canvas.paste(inset, corner)
