"""Weights by hand: an L2SKNet_UNet whose probability is a known function of the brightness."""

from __future__ import annotations

import numpy as np

from model import build_model
from utils.checkpoint.weights import get_weights, load_weights, save_weights

GAIN, LEVEL = 40.0, 0.5


def brightness_net():
    """A network that gives sigmoid(GAIN·(x − LEVEL)) for a pixel x ≥ 0."""
    net = build_model("L2SKNet_UNet")
    arrays = {name: np.zeros_like(array) for name, array in get_weights(net).items()}
    for name, array in arrays.items():
        if array.ndim == 1 and name.endswith("weight"):  # of a batch norm
            array[:] = 1
        elif name.endswith("running_var"):
            array[:] = 1 - 1e-5
    for name in ("Conv1.conv.0", "Conv1.conv.3", "contrConV_0.0", "Up_conv2.conv.0",
                 "Up_conv2.conv.3"):
        arrays[f"{name}.weight"][0, 0, 1, 1] = 1
    # W_sum and W cancel. What remains is θ, 1/2 because its weights are 0, times the centre tap.
    arrays["contrast0_3.0.conv.weight"][0, 0, 1, 1] = 2
    arrays["Conv.weight"][0, 0] = GAIN
    arrays["Conv.bias"][:] = -GAIN * LEVEL
    load_weights(net, arrays)
    net.eval()
    return net


def save_brightness_weights(path):
    """Writes the weights of `brightness_net`."""
    save_weights(brightness_net(), path)
    return path
