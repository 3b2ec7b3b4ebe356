"""The blocks that both architectures are made of.

Attribute names are those of the official state_dict: official weights load by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from model.ops.batch_norm import BatchNorm
from model.ops.conv import Conv2d
from utils.runtime import jt


class ConvStack(jt.nn.Sequential):
    """One or more of [convolution → batch norm → activation].

    Args:
        steps: place of the convolution in the official nn.Sequential → it and its norm, whose place
            is the next.
    """

    def __init__(self, steps: Mapping[int, tuple[jt.Module, BatchNorm]]):
        self.steps = list(steps.values())
        super().__init__(OrderedDict(
            (str(place + i), part) for place, step in steps.items() for i, part in enumerate(step)
        ))

    def execute(self, x: jt.Var) -> jt.Var:
        for conv, norm in self.steps:
            x = conv.normalised(x, norm)
        return x


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> Conv2d:
    """A 3×3 convolution that keeps the size (or divides it by `stride`, rounding up)."""
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> Conv2d:
    """A convolution over channels alone."""
    return Conv2d(in_channels, out_channels, 1, stride, bias=bias)
