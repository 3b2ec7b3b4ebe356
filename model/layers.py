"""The blocks that both architectures are made of.

Attribute names are those of the official state_dict: official weights load by name.
"""

from __future__ import annotations

import numpy as np

from model.conv import Conv2d, conv2d
from utils.runtime import jt


class ConvStack(jt.Module):
    """One or more of [convolution → batch norm → activation].

    Args:
        *steps: (index, convolution, batch norm). The convolution gets the name `index` and the norm
            `index + 1`, which are their places in the official nn.Sequential.
    """

    def __init__(self, *steps):
        self.indices = [index for index, _, _ in steps]
        for index, conv, norm in steps:
            setattr(self, str(index), conv)
            setattr(self, str(index + 1), norm)

    def execute(self, x):
        for index in self.indices:
            conv, norm = getattr(self, str(index)), getattr(self, str(index + 1))
            x = norm(conv.without_bias(x), conv.bias)
        return x


def conv3x3(in_channels, out_channels, stride=1, bias=False):
    """A 3×3 convolution that keeps the size (or divides it by `stride`, rounding up)."""
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)


def conv1x1(in_channels, out_channels, stride=1, bias=False):
    """A convolution over channels alone."""
    return Conv2d(in_channels, out_channels, 1, stride, bias=bias)


def max_pool2x2(x):
    """The largest of each 2×2 block; a tie's gradient goes to the first, as PyTorch's does."""
    h, w = x.shape[2:]
    # Jittor's pooling refuses an input of the size of its kernel.
    if h == 2:
        return max_pool2x2(jt.concat([x, x], 2))[:, :, :1]
    if w == 2:
        return max_pool2x2(jt.concat([x, x], 3))[:, :, :, :1]
    return jt.pool.Pool(2, 2, op="maximum")(x)


def pad_to_multiple(x, multiple):
    """Pads N×C×H×W at the bottom and right until H and W are multiples of `multiple`.

    The edge is repeated: unlike zeros it makes no step that looks like contrast, and unlike
    reflection it shows no target a second time and works for any size.
    """
    height, width = x.shape[2:]
    if height % multiple:
        x = jt.concat([x] + [x[:, :, -1:]] * (-height % multiple), 2)
    if width % multiple:
        x = jt.concat([x] + [x[:, :, :, -1:]] * (-width % multiple), 3)
    return x


def upsample_nearest2x(x):
    """Doubles height and width by repeating each pixel."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h, 1, w, 1).broadcast([n, c, h, 2, w, 2]).reshape(n, c, 2 * h, 2 * w)


def _bilinear_matrix(size, new_size):
    """new_size × size weights of linear interpolation with half-pixel centres, edges clamped."""
    centres = (np.arange(new_size, dtype=np.float64) + 0.5) * (size / new_size) - 0.5
    centres = centres.clip(0, None)
    low = np.minimum(np.floor(centres).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((new_size, size), np.float64)
    np.add.at(weights, (np.arange(new_size), low), 1 - (centres - low))
    np.add.at(weights, (np.arange(new_size), high), centres - low)
    return weights.astype(np.float32)


def resize_bilinear(x, size):
    """Resizes N×C×H×W to `size` (height, width), as F.interpolate(align_corners=False) does.

    Two matrix products, one an axis, written as 1×1 convolutions over that axis: fast forward and
    backward on every device.
    """
    n, c, h, w = x.shape
    height, width = size
    rows = jt.array(_bilinear_matrix(h, height)).stop_grad().reshape(height, h, 1, 1)
    columns = jt.array(_bilinear_matrix(w, width)).stop_grad().reshape(width, w, 1, 1)
    x = conv2d(x.reshape(n * c, h, w, 1), rows)
    x = conv2d(x.reshape(n * c * height, w, 1, 1), columns)
    return x.reshape(n, c, height, width)
