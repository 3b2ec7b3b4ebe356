"""The blocks that both architectures are made of.

Attribute names are those of the official state_dict: official weights load by name.
"""

from __future__ import annotations

from model.ops.conv import Conv2d
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
