"""Sample data in NUDT-SIRST's layout, for trying everything out before the dataset is there.

Clouds, sky over hills, sea or fields, and walls, as an infrared camera shows them, with up to
three dim point-like or small extended targets each. Contrasts and areas follow NUDT-SIRST's
(median area about 20 pixels, median contrast about 40 grey levels to the surroundings), and
clutter is often brighter than the targets, so that a threshold does not find them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from utils.errors import UserError

_README = """\
Synthetic sample data, written by utils/data/synthetic.py of L2SKNet-in-Jittor (seed {seed}).
This is NOT the NUDT-SIRST dataset: scores on it say nothing about published ones.
It has the layout of NUDT-SIRST (images/, masks/, train.txt, test.txt); to work with the real
dataset, remove this folder and put the real one in its place.
"""


def write_sample_dataset(
    folder: str | Path,
    n_train: int = 64,
    n_test: int = 32,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
) -> Path:
    """Writes images/, masks/, train.txt, test.txt and a README.txt; all of it or nothing.

    The same seed gives the same pixels, whatever the number of images.

    Args:
        folder: the dataset's folder, which must not exist yet.
        size: height and width, or (height, width), of every image; at least 32.

    Returns:
        The folder.

    Raises:
        UserError: something is there already.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"{folder}: exists already; remove it, or name another folder")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 32:
        raise ValueError(f"size {height}x{width}: at least 32x32 expected")
    # Not NUDT-SIRST's 000001, ...: nobody shall take the one for the other by its names.
    names = [f"sample_{index + 1:04d}" for index in range(n_train + n_test)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place, on the same file system, so that one rename completes it.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        build = Path(temporary) / folder.name
        (build / "images").mkdir(parents=True)
        (build / "masks").mkdir()
        bar = tqdm(names, desc="writing sample data", unit="image", leave=False, disable=None)
        for index, name in enumerate(bar):
            image, mask = make_sample(height, width, np.random.default_rng([seed, index]))
            Image.fromarray(image).save(build / "images" / f"{name}.png")
            Image.fromarray(mask * np.uint8(255)).save(build / "masks" / f"{name}.png")
        for split, listed in (("train", names[:n_train]), ("test", names[n_train:])):
            (build / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))
        (build / "README.txt").write_text(_README.format(seed=seed))
        os.rename(build, folder)
    return folder


def make_sample(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image (H×W uint8) and its mask (H×W uint8 of 0 and 1)."""
    scene = (_clouds, _hills, _plain, _walls)[rng.integers(4)](height, width, rng)
    scene = ndimage.gaussian_filter(scene, rng.uniform(0.5, 1.0))  # the optics
    scene += rng.uniform(5, 100) - min(0.0, np.percentile(scene, 2))
    scene *= min(1.0, rng.uniform(150, 225) / np.percentile(scene, 99))  # room for the targets

    mask = np.zeros((height, width), bool)
    for _ in range(rng.choice(4, p=(0.05, 0.6, 0.28, 0.07))):
        shape = _target(height, width, mask, rng)
        target = shape > 0.4
        around = ndimage.binary_dilation(target, iterations=5) & ~target
        clutter = scene[around].std()
        scene += shape * (rng.lognormal(np.log(58), 0.4) + 1.5 * clutter)
        mask |= target

    scene += rng.normal(0, rng.lognormal(np.log(1.3), 0.5), scene.shape)
    scene += rng.normal(0, rng.uniform(0, 0.8), width)  # columns of a detector differ a little
    return np.rint(np.clip(scene, 0, 255)).astype(np.uint8), mask.astype(np.uint8)


def _target(height: int, width: int, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A point spread, or a few in a row for an extended target; H×W, peak 1, clear of others."""
    free = ~ndimage.binary_dilation(taken, iterations=8)
    margin = 6
    for _ in range(100):
        row, column = rng.uniform(margin, height - margin), rng.uniform(margin, width - margin)
        if free[int(row), int(column)]:
            break
    rows, columns = np.ogrid[:height, :width]
    if rng.random() < 0.5:
        parts, spread = 1, rng.uniform(1.2, 1.9)
    else:
        parts, spread = rng.integers(2, 4), rng.uniform(1.5, 2.6)
    angle, step = rng.normal(0, 0.3), 1.9 * spread
    shape = np.zeros((height, width))
    for part in range(parts):
        along = (part - (parts - 1) / 2) * step
        r = row + along * np.sin(angle) + rng.uniform(-0.5, 0.5)
        c = column + along * np.cos(angle)
        blob = np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * spread**2))
        shape += rng.uniform(0.7, 1.0) * blob
    return shape / shape.max()


def _noise(
    height: int, width: int, rng: np.random.Generator, slope: float, flat: float = 1.0
) -> np.ndarray:
    """Random grids from coarse to fine, summed; about 0 on average, standard deviation 1.

    Args:
        slope: how much weaker fine structure is than coarse (amplitude ~ scale**slope).
        flat: how much longer structures are horizontally than vertically.
    """
    total = np.zeros((height, width))
    for scale in (96, 48, 24, 12, 6, 3, 1.5):
        grid = [max(2, round(height / scale) + 1), max(2, round(width / (scale * flat)) + 1)]
        fine = Image.fromarray(rng.standard_normal(grid).astype(np.float32))
        fine = np.asarray(fine.resize((width, height), Image.Resampling.BICUBIC), float)
        total += scale**slope * fine / fine.std()
    return (total - total.mean()) / total.std()


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Cumulus: ragged bright banks on a darker sky, or a closed cover."""
    banks = _noise(height, width, rng, slope=0.9)
    cover = np.maximum(banks - rng.uniform(-1.5, 0.8), 0)
    ridges = 1 - np.abs(_noise(height, width, rng, slope=0.6))  # folds, as on cauliflower
    return rng.uniform(25, 70) * cover * (1 + rng.uniform(0.1, 0.4) * ridges)


def _hills(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A graded sky, faint haze, and a textured ground below a ragged horizon."""
    down = np.linspace(0, 1, height)[:, None]
    sky = rng.uniform(-80, 120) * down + rng.uniform(2, 8) * _noise(height, width, rng, 1.2, 2.0)
    ridge = _noise(1, width, rng, slope=1.1)[0] * rng.uniform(0.01, 0.08)
    below = down - (rng.uniform(0.5, 1.0) + ridge)
    ground = rng.uniform(-60, 100) + rng.uniform(8, 35) * _noise(height, width, rng, 0.3, 1.5)
    return np.where(below > 0, sky.mean() + ground, sky)


def _plain(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Sea or fields from above: streaks, bright lanes, and small warm spots that are clutter."""
    fields = rng.uniform(10, 32) * _noise(height, width, rng, rng.uniform(0.0, 0.8), 3.0)
    lanes = np.abs(_noise(height, width, rng, slope=1.3, flat=rng.uniform(2, 8)))
    return fields + rng.uniform(20, 90) * np.exp(-((lanes / 0.03) ** 2))


def _walls(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Buildings: overlapping rectangles, far larger than a target, bright and dark."""
    scene = rng.uniform(2, 6) * _noise(height, width, rng, slope=1.0)
    for _ in range(rng.integers(4, 16)):
        h, w = rng.integers(14, max(15, height // 2)), rng.integers(14, max(15, width // 2))
        top, left = rng.integers(-h // 2, height - h // 2), rng.integers(-w // 2, width - w // 2)
        block = scene[max(0, top) : top + h, max(0, left) : left + w]
        block += rng.normal(0, 42)
    return ndimage.gaussian_filter(scene, rng.uniform(0.5, 2.0))
