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


# The gradient goes to the first of equals: `taken` is which of the four.
_POOL = """
const int64 planes = in0_shape0 * in0_shape1, H = out0_shape2, W = out0_shape3, B = out0_shape4;
#pragma omp parallel for
for (int64 row = 0; row < planes * H; ++row) {
    const int64 first = row / H * in0_shape2 * in0_shape3 * B + row % H * 2 * in0_shape3 * B;
    const int64 step[] = {0, B, in0_shape3 * B, in0_shape3 * B + B};
    for (int64 i = 0; i < W; ++i)
        for (int64 b = 0; b < B; ++b) {
            const float* x = in0_p + first + i * 2 * B + b;
            float best = x[0];
            int which = 0;
            for (int k = 1; k < 4; ++k) {
                which = x[step[k]] > best ? k : which;
                best = x[step[k]] > best ? x[step[k]] : best;
            }
            out0_p[(row * W + i) * B + b] = best;
            out1_p[(row * W + i) * B + b] = which;
        }
}
"""
_UNPOOL = """
const int64 planes = in0_shape0 * in0_shape1, H = in0_shape2, W = in0_shape3, B = in0_shape4;
#pragma omp parallel for
for (int64 row = 0; row < planes * out0_shape2; ++row) {
    const int64 plane = row / out0_shape2, h = row % out0_shape2;
    for (int64 w = 0; w < out0_shape3; ++w) {
        float* dx = out0_p + (row * out0_shape3 + w) * B;
        const bool inside = h / 2 < H && w / 2 < W;
        const int64 from = inside ? ((plane * H + h / 2) * W + w / 2) * B : 0;
        for (int64 b = 0; b < B; ++b)
            dx[b] = inside && in1_p[from + b] == h % 2 * 2 + w % 2 ? in0_p[from + b] : 0;
    }
}
"""


class _MaxPoolCPU(jt.Function):
    """2×2 max-pool of activations in blocks of channels."""

    def execute(self, x):
        n, groups, h, w, b = self.shape = x.shape
        y, self.taken = jt.code([(n, groups, h // 2, w // 2, b)] * 2, ["float32", "int8"], [x],
                                cpu_src=_POOL)
        return y

    def grad(self, dy):
        return jt.code(self.shape, "float32", [dy, self.taken], cpu_src=_UNPOOL)


def max_pool2x2(x):
    """The largest of each 2×2 block; a tie's gradient goes to the first, as PyTorch's does."""
    h, w = x.shape[2:4]
    if x.ndim == 5:
        return _MaxPoolCPU()(x)
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
    n, c, h, w, *block = x.shape
    x = x.reshape(n, c, h, 1, w, 1, *block).broadcast([n, c, h, 2, w, 2, *block])
    return x.reshape(n, c, 2 * h, 2 * w, *block)


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
    n, c, h, w, *block = x.shape
    b = block[0] if block else 1
    height, width = size
    rows = jt.array(_bilinear_matrix(h, height)).stop_grad().reshape(height, h, 1, 1)
    columns = jt.array(_bilinear_matrix(w, width)).stop_grad().reshape(width, w, 1, 1)
    x = conv2d(x.reshape(n * c, h, w * b, 1), rows)
    x = conv2d(x.reshape(n * c * height, w, b, 1), columns)
    return x.reshape(n, c, height, width, *block)
