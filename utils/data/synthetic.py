"""Makes sample data in NUDT-SIRST's layout, to try everything without the dataset.

Clouds, hills, fields with bright lanes, and walls, each with up to three small dim targets.
Clutter is often brighter than the targets, so that a threshold does not find them.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from utils.data.writing import write_dataset
from utils.errors import UserError


def write_sample_dataset(
    folder: str | Path, n_train: int = 64, n_test: int = 32, size: int | tuple[int, int] = 256,
    seed: int = 0,
) -> Path:
    """Writes images/, masks/, train.txt and test.txt into a new folder, all of it or nothing.

    Pixels depend on the seed alone, not on the number of images. `size` is the side of the images,
    or (height, width), at least 32. Scores on these images say nothing about other images.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"{folder}: exists already; remove it, or name another folder")
    height, width = (size, size) if isinstance(size, int) else size
    # Names unlike NUDT-SIRST's 000001: nobody takes one dataset for the other.
    samples = ((f"sample_{index + 1:04d}",
                *make_sample(height, width, np.random.default_rng([seed, index])))
               for index in range(n_train + n_test))
    write_dataset(folder, {"train": islice(samples, n_train), "test": samples})
    return folder


def make_sample(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H×W uint8) and its mask (H×W uint8 of 0 and 1)."""
    scene = (_clouds, _hills, _fields, _walls)[rng.integers(4)](height, width, rng)
    scene = gaussian_filter(scene, rng.uniform(0.5, 1.0))  # the optics
    scene += rng.uniform(5, 100) - min(0.0, np.percentile(scene, 2))
    scene *= min(1.0, rng.uniform(150, 225) / np.percentile(scene, 99))  # headroom for targets
    mask = np.zeros((height, width), bool)
    for _ in range(rng.choice(4, p=(0.05, 0.6, 0.28, 0.07))):
        shape = _target(height, width, rng)
        target = shape > 0.4
        around = binary_dilation(target, iterations=5) & ~target
        if not mask[around | target].any():
            scene += shape * (rng.lognormal(np.log(58), 0.4) + 1.5 * scene[around].std())
            mask |= target
    scene += rng.normal(0, rng.lognormal(np.log(1.3), 0.5), scene.shape)
    scene += rng.normal(0, rng.uniform(0, 0.8), width)  # detector columns differ a little
    return np.rint(np.clip(scene, 0, 255)).astype(np.uint8), mask.astype(np.uint8)


def _target(height, width, rng):
    """H×W with peak 1: one spot, or two or three spots in a row for an extended target."""
    parts = rng.choice((1, 2, 3), p=(0.5, 0.25, 0.25))
    spread = rng.uniform(1.2, 1.9) if parts == 1 else rng.uniform(1.5, 2.6)
    centre = rng.uniform(6, (height - 6, width - 6))
    angle = rng.normal(0, 0.3)
    y, x = np.ogrid[:height, :width]
    shape = np.zeros((height, width))
    for along in 1.9 * spread * (np.arange(parts) - (parts - 1) / 2):
        row, column = centre + along * np.array((np.sin(angle), np.cos(angle)))
        distance = np.hypot(y - row, x - column) / spread
        shape += rng.uniform(0.7, 1.0) * np.exp(-(distance**2) / 2)
    return shape / shape.max()


def _noise(height, width, rng, slope, flat=1.0):
    """H×W noise, mean 0, deviation 1, amplitude ~ frequency**-slope, wider than high by `flat`."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], flat * np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    white = rng.standard_normal((height, width))
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency**slope, (height, width))
    return field / field.std()


def _clouds(height, width, rng):
    cover = np.maximum(_noise(height, width, rng, 1.9) - rng.uniform(-1.5, 0.8), 0)
    folds = 1 - np.abs(_noise(height, width, rng, 1.6))
    return rng.uniform(25, 70) * cover * (1 + rng.uniform(0.1, 0.4) * folds)


def _hills(height, width, rng):
    down = np.linspace(0, 1, height)[:, None]
    sky = rng.uniform(-80, 120) * down + rng.uniform(2, 8) * _noise(height, width, rng, 2.2, 2)
    horizon = rng.uniform(0.5, 1) + rng.uniform(0.02, 0.1) * _noise(1, width, rng, 1.6)
    ground = rng.uniform(-60, 100) + rng.uniform(8, 35) * _noise(height, width, rng, 1.3, 1.5)
    return np.where(down > horizon, sky.mean() + ground, sky)


def _fields(height, width, rng):
    texture = rng.uniform(10, 32) * _noise(height, width, rng, rng.uniform(1, 1.8), 3)
    lanes = np.abs(_noise(height, width, rng, 2.3, rng.uniform(1, 3))) / 0.03
    return texture + rng.uniform(20, 90) * np.exp(-(lanes**2))


def _walls(height, width, rng):
    scene = rng.uniform(2, 6) * _noise(height, width, rng, 2)
    for _ in range(rng.integers(4, 16)):
        top, left = rng.integers((-height // 4, -width // 4), (height, width))
        h, w = rng.integers(14, (height // 2 + 15, width // 2 + 15))
        scene[max(0, top) : max(0, top + h), max(0, left) : max(0, left + w)] += rng.normal(0, 42)
    return gaussian_filter(scene, rng.uniform(0.5, 2.0))
