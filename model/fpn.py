"""L2SKNet_FPN and L2SKNet_1D_FPN."""

from __future__ import annotations

from model.blocks import ConvStack, conv1x1, conv3x3
from model.contrast import CHANNELS, ContrastNet
from model.ops.batch_norm import LINEAR, RELU, BatchNorm, activate
from model.ops.layout import enter, leave
from model.ops.resize import resize_bilinear
from utils.runtime import jt


class ResidualBlock(jt.Module):
    """3×3 conv → BN → ReLU → 3×3 conv → BN, plus the input (or its 1×1 projection), ReLU."""

    def __init__(self, in_channels, channels, stride):
        self.body = ConvStack(
            (0, conv3x3(in_channels, channels, stride), BatchNorm(channels, RELU)),
            (3, conv3x3(channels, channels), BatchNorm(channels, LINEAR)),
        )
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            projection = conv1x1(in_channels, channels, stride)
            self.shortcut = ConvStack((0, projection, BatchNorm(channels, LINEAR)))

    def execute(self, x):
        skip = x if self.shortcut is None else self.shortcut(x)
        return activate(self.body(x) + skip, RELU)


class Level(jt.Module):
    """Two residual blocks, the first with the stride."""

    def __init__(self, in_channels, channels, stride):
        setattr(self, "0", ResidualBlock(in_channels, channels, stride))
        setattr(self, "1", ResidualBlock(channels, channels, 1))

    def execute(self, x):
        return getattr(self, "1")(getattr(self, "0")(x))


class Fuse(jt.Module):
    """Coarser level → bilinear resize → 1×1 conv with bias → BN → ReLU, plus the finer level."""

    def __init__(self, coarse_channels, fine_channels):
        conv = conv1x1(coarse_channels, fine_channels, bias=True)
        self.feature_high = ConvStack((0, conv, BatchNorm(fine_channels, RELU)))

    def execute(self, coarse, fine):
        # A 1×1 convolution commutes with the interpolation, and costs a quarter before it.
        conv, norm = getattr(self.feature_high, "0"), getattr(self.feature_high, "1")
        resized = resize_bilinear(conv.without_bias(coarse), fine.shape[2:4])
        return norm(resized, conv.bias) + fine


class Head(jt.Module):
    """3×3 conv to C/4 → BN → ReLU → dropout 0.1 → 1×1 conv with bias, sigmoid."""

    dropout = 0.1

    def __init__(self, channels):
        hidden = channels // 4
        self.block = ConvStack((0, conv3x3(channels, hidden), BatchNorm(hidden, RELU)))
        setattr(self.block, "4", conv1x1(hidden, 1, bias=True))

    def execute(self, x):
        x = self.block(x)
        if self.is_training() and self.dropout > 0:
            kept = (jt.random(x.shape) >= self.dropout).float32()
            x = x * kept / (1 - self.dropout)
        return jt.sigmoid(getattr(self.block, "4")(x))


class FPN(ContrastNet):
    """The feature pyramid, N×1×H×W → N×1×H×W probabilities."""

    def __init__(self, kernels):
        super().__init__(kernels)
        for level, (in_channels, channels) in enumerate(zip((1, *CHANNELS), CHANNELS)):
            setattr(self, f"layer{level}", Level(in_channels, channels, 1 if level == 0 else 2))
        for level in (3, 2, 1):
            setattr(self, f"fuse{level}{level - 1}", Fuse(CHANNELS[level], CHANNELS[level - 1]))
        self.head = Head(CHANNELS[0])

    def execute(self, x):
        x = enter(x)
        levels = []
        for level in range(4):
            x = getattr(self, f"layer{level}")(x)
            levels.append(x)
        levels = [self.contrast(level, x) for level, x in enumerate(levels)]
        x = levels[3]
        for level in (3, 2, 1):
            x = getattr(self, f"fuse{level}{level - 1}")(x, levels[level - 1])
        return leave(self.head(x))
