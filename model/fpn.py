"""L2SKNet_FPN and L2SKNet_1D_FPN."""

from __future__ import annotations

from collections import OrderedDict

from .contrast import CHANNELS, ContrastNet
from .layers import LINEAR, RELU, BatchNorm, ConvStack, conv1x1, conv3x3
from .ops import jt
from .ops.elementwise import add, dropout
from .ops.resize import resize_bilinear

DROPOUT = 0.1  # rate in the head, in training


class ResidualBlock(jt.Module):
    """3×3 conv → BN → ReLU → 3×3 conv → BN, plus the input (or its 1×1 projection), ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        self.body = ConvStack({
            0: (conv3x3(in_channels, channels, stride), BatchNorm(channels, RELU)),
            3: (conv3x3(channels, channels), BatchNorm(channels, LINEAR)),
        })
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            projection = conv1x1(in_channels, channels, stride)
            self.shortcut = ConvStack({0: (projection, BatchNorm(channels, LINEAR))})

    def execute(self, x: jt.Var) -> jt.Var:
        skip = x if self.shortcut is None else self.shortcut(x)
        return add([self.body(x), skip], RELU)


def encoder_level(in_channels: int, channels: int, stride: int) -> jt.nn.Sequential:
    """Two residual blocks, the first with the stride."""
    first = ResidualBlock(in_channels, channels, stride)
    return jt.nn.Sequential(first, ResidualBlock(channels, channels, 1))


class Fuse(jt.Module):
    """Coarser level → bilinear resize → 1×1 conv with bias → BN → ReLU, plus the finer level."""

    def __init__(self, coarse_channels: int, fine_channels: int):
        conv = conv1x1(coarse_channels, fine_channels, bias=True)
        self.feature_high = ConvStack({0: (conv, BatchNorm(fine_channels, RELU))})

    def execute(self, coarse: jt.Var, fine: jt.Var) -> jt.Var:
        # A 1×1 convolution commutes with the resize, and on the coarse level has a quarter of the
        # pixels to compute.
        conv, norm = self.feature_high
        resized = resize_bilinear(conv.convolve(coarse), fine.shape[2:4])
        return add([norm(resized, conv.bias), fine])


class Head(jt.Module):
    """3×3 conv to C/4 → BN → ReLU → dropout → 1×1 conv with bias."""

    def __init__(self, channels: int):
        hidden = channels // 4
        self.dropout = DROPOUT
        self.block = jt.nn.Sequential(OrderedDict([
            ("0", conv3x3(channels, hidden)),
            ("1", BatchNorm(hidden, RELU)),
            ("4", conv1x1(hidden, 1, bias=True)),  # 2 and 3, ReLU and dropout, have no weights
        ]))

    def execute(self, x: jt.Var) -> jt.Var:
        conv, norm, project = self.block
        x = norm(conv(x))
        if self.is_training() and self.dropout > 0:
            x = dropout(x, self.dropout)
        return project(x)


class FPN(ContrastNet):
    """The feature pyramid: an encoder of residual blocks, then coarse levels added to finer ones.

    `fuse32` adds level 3 to level 2, and so on. Levels 1 to 3 halve the size, rounding up.
    """

    def __init__(self, family: str):
        super().__init__(family)
        c0, c1, c2, c3 = CHANNELS
        self.layer0 = encoder_level(1, c0, 1)
        self.layer1 = encoder_level(c0, c1, 2)
        self.layer2 = encoder_level(c1, c2, 2)
        self.layer3 = encoder_level(c2, c3, 2)
        self.fuse32 = Fuse(c3, c2)
        self.fuse21 = Fuse(c2, c1)
        self.fuse10 = Fuse(c1, c0)
        self.head = Head(c0)

    def logits(self, x: jt.Var) -> jt.Var:
        """Image → logits."""
        x0 = self.layer0(x)
        x1 = self.layer1(x0)
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        s0, s1, s2, s3 = (self.contrast(level, x) for level, x in enumerate((x0, x1, x2, x3)))
        y = self.fuse32(s3, s2)
        y = self.fuse21(y, s1)
        y = self.fuse10(y, s0)
        return self.head(y)
