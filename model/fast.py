"""Networks for prediction: everything that is constant after training is folded, once.

A batch norm in evaluation is affine, so it is folded into the convolution before it. The kernels of
an LLSKM are affine in θ, K = A + θ∘B: A = K(0) and B = K(1) − K(0) come from two calls of its own
`kernels`, so this file does not repeat the formula. Folding is done in float64; on a GPU, K(0) and
K(1) come rounded to float32. Constants are kept in float32, those of θ, A and B in float64. With
bfloat16, activations are stored rounded, and a convolution rounds its kernel when it uses it.

`fast` replaces modules; `logits`, the way of an image through the network, stays.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain

import numpy as np

from .contrast import ContrastNet, ContrastStage
from .fpn import Fuse, Head, ResidualBlock
from .layers import LINEAR, RELU, BatchNorm, Conv2d, ConvStack
from .llskm import LLSKM, LLSKM1D, ChannelAttention
from .ops import jt
from .ops.batch_norm import EPS, activate
from .ops.conv import Pair, conv2d_activated
from .ops.elementwise import add, global_average, to_bfloat16, weighted_channels
from .ops.llskm import image_conv_activated, image_conv_sum_activated
from .ops.native import on_cuda
from .ops.resize import add_resized, doubled_conv3x3
from .unet import Up


def fast(net: ContrastNet, dtype: str = "float32") -> ContrastNet:
    """The network for prediction, N×1×H×W → N×1×H×W probabilities, without gradients.

    Args:
        net: a network of `model.build_model` with its weights. It is not changed, and later changes
            of it do not reach the fast network.
        dtype: type of the activations between the first and the last layer, "float32" or
            "bfloat16" (on a CPU with AVX512-BF16).
    """
    made = copy.copy(net)
    replaced = {id(part) for stage in net.stages for part in (*stage.branches, stage.merge)}
    for name, part in net.__dict__.items():
        if isinstance(part, jt.Module) and id(part) in replaced:
            delattr(made, name)
    made = _rewritten(made)
    made.stages = [FastStage(stage) for stage in net.stages]
    if dtype != "float32":
        for conv in made.modules():
            if isinstance(conv, FastConv) and conv.reads_image():
                conv.rounds = True
    return made


class FastConv(jt.Module):
    """A convolution, its bias and an activation in one operator.

    Args:
        weight: O×C×kh×kw float64.
        bias: O float64.
        slope: slope of the activation, as in `BatchNorm`.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray, slope: float, stride: int | Pair = 1,
                 padding: int | Pair = 0):
        self.weight, self.bias, self.slope = _constant(weight), _constant(bias), slope
        self.stride, self.padding = stride, padding
        self.rounds = False  # True: the result is rounded to bfloat16

    def reads_image(self) -> bool:
        """True for the first layer, whose input has one channel and stays in float32."""
        return self.weight.shape[1] == 1

    def makes_logits(self) -> bool:
        """True for the last layer, 1×1 to one channel, which computes in float32."""
        return self.weight.shape[0] == 1

    def execute(self, x: jt.Var, added: jt.Var | None = None) -> jt.Var:
        """Activation of (the convolution of x + the bias + `added`)."""
        if self.makes_logits() and x.dtype == "bfloat16":
            return weighted_channels(x, self.weight, self.bias)
        y = conv2d_activated(x, self.weight, self.bias, self.slope, self.stride, self.padding,
                             added=added)
        return to_bfloat16(y) if self.rounds else y


class FastUp(jt.Module):
    """`Up`: the doubling, the 3×3 convolution and the activation are one function."""

    def __init__(self, module: Up):
        conv, norm = module.up
        weight, bias = folded(conv, norm)
        self.weight, self.bias, self.slope = _constant(weight), _constant(bias), norm.slope

    def execute(self, x: jt.Var) -> jt.Var:
        return doubled_conv3x3(x, self.weight, self.bias, self.slope)


class FastResidualBlock(jt.Module):
    """`ResidualBlock`; its last convolution adds the shortcut and activates."""

    def __init__(self, module: ResidualBlock):
        self.body = _stack(module.body)
        _, last = self.body
        last.slope = RELU
        self.shortcut = module.shortcut and _stack(module.shortcut)

    def execute(self, x: jt.Var) -> jt.Var:
        first, last = self.body
        return last(first(x), x if self.shortcut is None else self.shortcut(x))


class FastFuse(jt.Module):
    """`Fuse`: one operator resizes, activates and adds.

    The norm may come before the resize, because the weights of a bilinear resize sum to 1.
    """

    def __init__(self, module: Fuse):
        conv, norm = module.feature_high
        self.conv = FastConv(*folded(conv, norm), LINEAR)

    def execute(self, coarse: jt.Var, fine: jt.Var) -> jt.Var:
        return add_resized(self.conv(coarse), fine)


class FastHead(jt.Module):
    """`Head` without its dropout."""

    def __init__(self, module: Head):
        conv, norm, project = module.block
        self.conv = FastConv(*folded(conv, norm), norm.slope, conv.stride, conv.padding)
        self.project = _conv(project)

    def execute(self, x: jt.Var) -> jt.Var:
        return self.project(self.conv(x))


class FastStage(jt.Module):
    """`ContrastStage`; θ of all branches is computed together."""

    def __init__(self, stage: ContrastStage):
        llskms, norms = zip(*stage.branches)
        self.slope = norms[0].slope
        self.attention = FastAttention([llskm.attn for llskm in llskms])
        make = FastLLSKM if isinstance(llskms[0], LLSKM) else FastLLSKM1D
        self.branches = [make(llskm, norm) for llskm, norm in zip(llskms, norms)]
        self.merge = stage.merge and _rewritten(stage.merge)

    def execute(self, x: jt.Var) -> jt.Var:
        theta = self.attention(global_average(x))
        y = add([branch(x, theta[:, i].unsqueeze(2).unsqueeze(3), self.slope)
                 for i, branch in enumerate(self.branches)])
        return y if self.merge is None else self.merge(y)


class FastAttention(jt.Module):
    """`ChannelAttention` of the B branches of a stage: pooled N×C×1×1 → θ, N×B×C, float64."""

    def __init__(self, modules: Sequence[ChannelAttention]):
        parts = zip(*(chain(*(folded(*step) for step in module.avg_channel.steps))
                      for module in modules))
        self.parts = [_constant(np.stack(arrays), "float64") for arrays in parts]
        self.e = _constant(np.array([math.e]), "float64")

    def execute(self, pooled: jt.Var) -> jt.Var:
        first, hidden_bias, second, bias = self.parts  # B×H×C×1×1, B×H, B×C×H×1×1, B×C
        n = pooled.shape[0]
        hidden = (pooled.reshape(n, 1, 1, -1) * first.reshape(1, *first.shape[:3])).sum(3)
        hidden = activate(hidden + hidden_bias.unsqueeze(0), RELU)
        values = (hidden.unsqueeze(2) * second.reshape(1, *second.shape[:3])).sum(3)
        values = values + bias.unsqueeze(0)
        if on_cuda():  # where Jittor's sigmoid has single precision, whatever the type
            return 1.0 / (1.0 + jt.pow(self.e, -values))
        return jt.sigmoid(values)


class _Affine(jt.Module):
    """A and B of K = A + θ∘B, both times the scale of the norm that follows; and the norm's shift.
    """

    def __init__(self, llskm: LLSKM | LLSKM1D, norm: BatchNorm):
        channels = norm.weight.shape[0]
        scale, shift = scale_and_shift(norm)
        at_0, at_1 = (llskm.kernels(jt.full((1, channels, 1, 1), theta).float64()).numpy()
                      for theta in (0.0, 1.0))
        a, b = (array * scale[:, None, None, None] for array in (at_0, at_1 - at_0))
        self.a, self.b = _constant(a, "float64"), _constant(b, "float64")  # 1×C×C×k×k float64
        self.shift = shift

    def kernels(self, theta: jt.Var) -> jt.Var:
        """θ, N×C×1×1 float64 → one kernel per image, N×C×C×k×k float32."""
        return (self.a + theta.unsqueeze(4) * self.b).float32()

    def centre(self) -> jt.Var:
        """The centre tap of B, its only tap that is not zero, C×C×1×1 float32."""
        half = self.b.shape[3] // 2
        return self.b[0, :, :, half : half + 1, half : half + 1].float32()


class FastLLSKM(_Affine):
    """`Branch` with an `LLSKM`."""

    def __init__(self, llskm: LLSKM, norm: BatchNorm):
        super().__init__(llskm, norm)
        self.shift = _constant(self.shift)
        self.padding, self.dilation = llskm.padding, llskm.dilation

    def execute(self, x: jt.Var, theta: jt.Var, slope: float) -> jt.Var:
        return image_conv_activated(x, theta, self.kernels, self.centre, self.shift, slope,
                                    self.padding, self.dilation)


class FastLLSKM1D(_Affine):
    """`Branch` with an `LLSKM1D`: K is 1×1, and the two separable convolutions are subtracted."""

    def __init__(self, llskm: LLSKM1D, norm: BatchNorm):
        super().__init__(llskm, norm)
        scale, _ = scale_and_shift(norm)
        row, column = llskm.conv_1xn, llskm.conv_nx1
        self.row = FastConv(_float64(row.weight), _float64(row.bias), LINEAR, 1, row.padding)
        self.column = _constant(-scale[:, None, None, None] * _float64(column.weight))
        self.shift = _constant(self.shift - scale * _float64(column.bias))
        self.padding = column.padding

    def execute(self, x: jt.Var, theta: jt.Var, slope: float) -> jt.Var:
        return image_conv_sum_activated(x, theta, self.kernels, self.centre, self.row(x),
                                        self.column, self.shift, slope, self.padding)


def scale_and_shift(
    norm: BatchNorm, conv_bias: jt.Var | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel scale and shift, float64, that replace a norm and the bias before the norm."""
    scale = _float64(norm.weight) / np.sqrt(_float64(norm.running_var) + EPS)
    mean = _float64(norm.running_mean)
    if conv_bias is not None:
        mean = mean - _float64(conv_bias)
    return scale, _float64(norm.bias) - mean * scale


def folded(conv: jt.Module, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias, float64, of a convolution and the norm after it."""
    scale, shift = scale_and_shift(norm, conv.bias)
    weight = _float64(conv.weight)
    return weight * scale[:, None, None, None], shift


def _float64(variable: jt.Var) -> np.ndarray:
    return variable.numpy().astype(np.float64)


def _constant(array: np.ndarray, dtype: str = "float32") -> jt.Var:
    return jt.array(array.astype(dtype), dtype=dtype).stop_grad()


# ------------------------------------------------------------------------- the tree of modules


def _stack(stack: ConvStack) -> jt.Module:
    return jt.nn.Sequential(*(
        FastConv(*folded(conv, norm), norm.slope, conv.stride, conv.padding)
        for conv, norm in stack.steps))


def _conv(conv: Conv2d) -> jt.Module:
    return FastConv(_float64(conv.weight), _float64(conv.bias), LINEAR, conv.stride, conv.padding)


_FAST = {ConvStack: _stack, Up: FastUp, ResidualBlock: FastResidualBlock, Fuse: FastFuse,
         Head: FastHead, Conv2d: _conv}


def _rewritten(module: jt.Module) -> jt.Module:
    """A copy of the module in which each part that `_FAST` knows is replaced, at any depth."""
    if type(module) in _FAST:
        return _FAST[type(module)](module)
    made = copy.copy(module)
    made.__dict__ = {
        name: _rewritten(part) if isinstance(part, jt.Module) else
        OrderedDict((key, _rewritten(layer)) for key, layer in part.items())
        if isinstance(part, OrderedDict) else part
        for name, part in module.__dict__.items()}
    return made
