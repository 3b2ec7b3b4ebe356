"""L2SKNet_UNet and L2SKNet_1D_UNet."""

from __future__ import annotations

from model.blocks import ConvStack, conv1x1, conv3x3
from model.contrast import CHANNELS, ContrastNet
from model.ops.batch_norm import RELU, BatchNorm
from model.ops.layout import enter, leave
from model.ops.pool import max_pool2x2
from model.ops.resize import pad_to_multiple, upsample_nearest2x
from utils.runtime import jt


def _step(index, in_channels, out_channels):
    conv = conv3x3(in_channels, out_channels, bias=True)
    return index, conv, BatchNorm(out_channels, RELU)


class DoubleConv(jt.Module):
    """[3×3 conv with bias → BN → ReLU] twice."""

    def __init__(self, in_channels, out_channels):
        self.conv = ConvStack(
            _step(0, in_channels, out_channels), _step(3, out_channels, out_channels)
        )

    def execute(self, x):
        return self.conv(x)


class Up(jt.Module):
    """Nearest ×2 → 3×3 conv with bias → BN → ReLU."""

    def __init__(self, in_channels, out_channels):
        self.up = ConvStack(_step(1, in_channels, out_channels))

    def execute(self, x):
        return self.up(upsample_nearest2x(x))


class UNet(ContrastNet):
    """The U-shaped network, N×1×H×W → N×1×H×W probabilities.

    It halves three times: sizes that are no multiples of 8 are padded, and cropped back.
    """

    def __init__(self, kernels):
        super().__init__(kernels)
        for level, (in_channels, channels) in enumerate(zip((1, *CHANNELS), CHANNELS)):
            setattr(self, f"Conv{level + 1}", DoubleConv(in_channels, channels))
        for level in (3, 2, 1):
            setattr(self, f"Up{level + 1}", Up(CHANNELS[level], CHANNELS[level - 1]))
            decoder = DoubleConv(CHANNELS[level], CHANNELS[level - 1])
            setattr(self, f"Up_conv{level + 1}", decoder)
        self.Conv = conv1x1(CHANNELS[0], 1, bias=True)

    def execute(self, x):
        height, width = x.shape[2:]
        x = enter(pad_to_multiple(x, 8))
        encoded = []
        for level in range(4):
            x = getattr(self, f"Conv{level + 1}")(x if level == 0 else max_pool2x2(x))
            encoded.append(x)
        skips = [self.contrast(level, x) for level, x in enumerate(encoded)]
        x = skips[3]
        for level in (3, 2, 1):
            x = jt.concat([skips[level - 1], getattr(self, f"Up{level + 1}")(x)], 1)
            x = getattr(self, f"Up_conv{level + 1}")(x)
        return leave(jt.sigmoid(self.Conv(x)))[:, :, :height, :width]
