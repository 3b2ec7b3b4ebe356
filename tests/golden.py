"""Numbers of the official PyTorch implementation (tests/fixtures), and the recipe behind them.

Weights, images and masks are functions of names, so nothing large is stored. Every number exists in
float32, as official PyTorch computes it, and under `f64/` in float64, the truth.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


def load(model_name):
    """The fixture of a network: name → array."""
    with np.load(FIXTURES / f"{model_name}.npz") as file:
        return {name: file[name] for name in file.files}


def _rng(name):
    return np.random.default_rng([20241225, zlib.crc32(name.encode())])


def weight(name, shape):
    """The recipe's value of one entry of the official state_dict."""
    z = _rng(name).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.float32(0.3) * (1 + np.abs(z))
    if name.endswith("running_mean"):
        return np.float32(0.02) * z
    if len(shape) == 4:
        return z / np.float32(np.sqrt(np.prod(shape[1:])))
    if name.endswith("bias"):
        return np.float32(0.1) * z
    return 1 + np.float32(0.1) * z


def weights(fixture):
    """The recipe's state_dict, the unused kernels of the official 1-D models included."""
    names = [str(name) for name in fixture["keys"]]
    shapes = [tuple(map(int, str(shape).split("x"))) for shape in fixture["shapes"]]
    return {name: weight(name, shape) for name, shape in zip(names, shapes)}


def images(n, h, w):
    """n×1×h×w float32."""
    return _rng(f"input{n}x{h}x{w}").random((n, 1, h, w)).astype(np.float32)


def masks(n, h, w):
    """n×1×h×w float32: three 4×4 squares an image."""
    rng, result = _rng(f"mask{n}x{h}x{w}"), np.zeros((n, 1, h, w), np.float32)
    for image in result[:, 0]:
        for _ in range(3):
            r, c = rng.integers(2, h - 6), rng.integers(2, w - 6)
            image[r : r + 4, c : c + 4] = 1
    return result
