"""The layers that the networks are made of: convolution, batch norm, and stacks of both.

Attribute names are those of the official state_dict: official weights load by name. N×C×H×W in a
docstring is the shape of a tensor's content; a CPU may hold it in blocks of channels
(ops/layout.py), which the operators of `ops` deal with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from .ops import jt
from .ops.batch_norm import LEAKY, LINEAR, RELU, can_sum_norms, fixed_norm, sum_of_norms, train_norm
from .ops.conv import Pair, conv2d, pair
from .ops.elementwise import add
from .ops.sums import add_channel_bias

__all__ = ["LEAKY", "LINEAR", "RELU", "BatchNorm", "Conv2d", "ConvStack", "add_norms", "conv1x1",
           "conv3x3"]


class Conv2d(jt.Module):
    """A convolution, initialised as PyTorch does by default.

    Kaiming-uniform with a = √5 is U(−1/√fan_in, 1/√fan_in), for the weight and the bias alike.
    NumPy's generator draws, so that all devices begin with the same weights.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, stride: int = 1,
        padding: int | Pair = 0, bias: bool = True,
    ):
        def uniform(*shape):
            return jt.array(np.random.uniform(-bound, bound, shape).astype(np.float32))

        kernel_size = pair(kernel_size)
        bound = (in_channels * kernel_size[0] * kernel_size[1]) ** -0.5
        self.weight = uniform(out_channels, in_channels, *kernel_size)
        self.bias = uniform(out_channels) if bias else None
        self.stride, self.padding = stride, padding

    def convolve(self, x: jt.Var) -> jt.Var:
        """The convolution without its bias, which the batch norm after it is given."""
        return conv2d(x, self.weight, self.stride, self.padding)

    def execute(self, x: jt.Var) -> jt.Var:
        y = self.convolve(x)
        return y if self.bias is None else add_channel_bias(y, self.bias)


class BatchNorm(jt.Module):
    """Batch norm with PyTorch's semantics, and the activation after it.

    Args:
        channels: C.
        slope: slope of the activation for negative inputs: RELU (0), LEAKY (0.1), or LINEAR (1) for
            no activation.
    """

    def __init__(self, channels: int, slope: float):
        self.weight = jt.array(np.ones(channels, np.float32))
        self.bias = jt.array(np.zeros(channels, np.float32))
        self.running_mean = jt.array(np.zeros(channels, np.float32)).stop_grad()
        self.running_var = jt.array(np.ones(channels, np.float32)).stop_grad()
        self.slope = float(slope)

    def execute(self, x: jt.Var, conv_bias: jt.Var | None = None) -> jt.Var:
        """N×C×H×W → N×C×H×W; `conv_bias` is the bias of the convolution before, not yet added."""
        if not self.is_training():
            return fixed_norm(x, *self.parts(), self.slope, conv_bias)
        y, mean, var = train_norm(x, *self.parts(), self.slope, conv_bias)
        self.update(mean, var)
        return y

    def parts(self) -> list[jt.Var]:
        """Weight, bias, running mean and running variance."""
        return [self.weight, self.bias, self.running_mean, self.running_var]

    def update(self, mean: jt.Var, var: jt.Var) -> None:
        """Sets the running statistics."""
        self.running_mean.update(mean.detach())
        self.running_var.update(var.detach())


def add_norms(norms: Sequence[BatchNorm], xs: Sequence[jt.Var]) -> jt.Var:
    """Σ norm(x) over pairs of a norm and its input; all norms have the same slope."""
    if not (norms[0].is_training() and can_sum_norms(len(norms))):
        return add([norm(x) for norm, x in zip(norms, xs)])
    total, running = sum_of_norms(xs, [norm.parts() for norm in norms], norms[0].slope)
    for norm, mean, var in zip(norms, running[::2], running[1::2]):
        norm.update(mean, var)
    return total


class ConvStack(jt.nn.Sequential):
    """One or more of [convolution → batch norm → activation].

    Args:
        steps: index of a convolution in the official nn.Sequential → the convolution and its norm.
            The norm has the next index.
    """

    def __init__(self, steps: Mapping[int, tuple[jt.Module, BatchNorm]]):
        self.steps = list(steps.values())
        super().__init__(OrderedDict(
            (str(index + i), part) for index, step in steps.items() for i, part in enumerate(step)
        ))

    def execute(self, x: jt.Var) -> jt.Var:
        for conv, norm in self.steps:
            x = norm(conv.convolve(x), conv.bias)
        return x


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> Conv2d:
    """A 3×3 convolution that keeps the size (or divides it by `stride`, rounding up)."""
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> Conv2d:
    """A 1×1 convolution, which mixes channels alone."""
    return Conv2d(in_channels, out_channels, 1, stride, bias=bias)
