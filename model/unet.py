"""L2SKNet_UNet and L2SKNet_1D_UNet."""

from __future__ import annotations

from .contrast import CHANNELS, ContrastNet
from .layers import RELU, BatchNorm, Conv2d, ConvStack, conv1x1, conv3x3
from .ops import jt
from .ops.elementwise import concat
from .ops.pool import max_pool2x2
from .ops.resize import upsample_nearest2x


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
        return self.up(upsample_nearest2x(x))


class UNet(ContrastNet):
    """The U-shaped network. It halves the size three times, so images are padded to multiples of 8.

    The official names count from 1: `Conv1` to `Conv4` are levels 0 to 3, and `Up4` goes from
    level 3 to level 2.
    """

    multiple = 8

    def __init__(self, family: str):
        super().__init__(family)
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

    def logits(self, x: jt.Var) -> jt.Var:
        """Image → logits; height and width are multiples of 8."""
        x0 = self.Conv1(x)
        x1 = self.Conv2(max_pool2x2(x0))
        x2 = self.Conv3(max_pool2x2(x1))
        x3 = self.Conv4(max_pool2x2(x2))
        s0, s1, s2, s3 = (self.contrast(level, x) for level, x in enumerate((x0, x1, x2, x3)))
        y = self.Up_conv4(concat(s2, self.Up4(s3)))
        y = self.Up_conv3(concat(s1, self.Up3(y)))
        y = self.Up_conv2(concat(s0, self.Up2(y)))
        return self.Conv(y)
