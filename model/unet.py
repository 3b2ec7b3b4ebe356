"""L2SKNet_UNet and L2SKNet_1D_UNet."""

from __future__ import annotations

from model.blocks import ConvStack, conv1x1, conv3x3
from model.contrast import CHANNELS, ContrastNet
from model.ops.batch_norm import RELU, BatchNorm
from model.ops.conv import Conv2d
from model.ops.elementwise import join, probability, share, to_float32
from model.ops.layout import enter, leave
from model.ops.pool import max_pool2x2
from model.ops.resize import doubled_conv3x3, pad_to_multiple, upsample_nearest2x
from utils.runtime import jt


def _step(in_channels: int, out_channels: int) -> tuple[Conv2d, BatchNorm]:
    return conv3x3(in_channels, out_channels, bias=True), BatchNorm(out_channels, RELU)


class DoubleConv(jt.Module):
    """[3×3 conv with bias → BN → ReLU] twice."""

    def __init__(self, in_channels: int, out_channels: int):
        self.conv = ConvStack(
            {0: _step(in_channels, out_channels), 3: _step(out_channels, out_channels)}
        )

    def execute(self, x: jt.Var) -> jt.Var:
        return self.conv(x)


class Up(jt.Module):
    """Nearest ×2 → 3×3 conv with bias → BN → ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        self.up = ConvStack({1: _step(in_channels, out_channels)})

    def execute(self, x: jt.Var) -> jt.Var:
        conv, norm = self.up
        if norm.folds(x):
            return norm(doubled_conv3x3(x, conv.weight), conv.bias)
        return self.up(upsample_nearest2x(x))


class UNet(ContrastNet):
    """The U-shaped network, N×1×H×W → N×1×H×W probabilities.

    It halves three times: sizes that are no multiples of 8 are padded, and cropped back.
    """

    def __init__(self, kernels: str):
        super().__init__(kernels)
        c0, c1, c2, c3 = CHANNELS
        self.Conv1 = DoubleConv(1, c0)
        self.Conv2 = DoubleConv(c0, c1)
        self.Conv3 = DoubleConv(c1, c2)
        self.Conv4 = DoubleConv(c2, c3)
        self.Up4 = Up(c3, c2)
        self.Up_conv4 = DoubleConv(c3, c2)
        self.Up3 = Up(c2, c1)
        self.Up_conv3 = DoubleConv(c2, c1)
        self.Up2 = Up(c1, c0)
        self.Up_conv2 = DoubleConv(c1, c0)
        self.Conv = conv1x1(c0, 1, bias=True)

    def execute(self, x: jt.Var) -> jt.Var:
        height, width = x.shape[2:]
        x0, down = share(self.Conv1(enter(pad_to_multiple(x, 8))), 2)
        x1, down = share(self.Conv2(max_pool2x2(down)), 2)
        x2, down = share(self.Conv3(max_pool2x2(down)), 2)
        x3 = self.Conv4(max_pool2x2(down))
        x0, x1, x2, x3 = (self.contrast(level, x) for level, x in enumerate((x0, x1, x2, x3)))
        y = self.Up_conv4(join(x2, self.Up4(x3)))
        y = self.Up_conv3(join(x1, self.Up3(y)))
        y = self.Up_conv2(join(x0, self.Up2(y)))
        return leave(probability(self.Conv(to_float32(y))))[:, :, :height, :width]
