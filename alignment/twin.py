"""The four networks in plain PyTorch, computed the way the official code computes them.

Three convolutions per LLSKM, PyTorch's own layers, SoftIoU in float32, the official names of the
parameters: a second implementation to compare with (Wu et al., IEEE TGRS 2024; official files
model/L2SKNet/*.py). Nothing is shared with `model/`, not even the tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = (16, 32, 64, 128)
# Per level, the (k, dilation) of its branches; the 1-D kernels are not dilated.
BRANCHES = {
    "2D": (((9, 2), (5, 2), (3, 2), (3, 1)), ((5, 2), (3, 2), (3, 1)), ((3, 2), (3, 1)), ((3, 1),)),
    "1D": (((17, 1), (9, 1), (5, 1), (3, 1)), ((9, 1), (5, 1), (3, 1)), ((5, 1), (3, 1)),
           ((3, 1),)),
}


class ChannelAttention(nn.Module):
    """θ, N×C×H×W → N×C×1×1."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 4
        self.avg_channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(True),
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.avg_channel(x))


class LLSKM(nn.Module):
    """W_sum * X − W * X + θ(X) ∘ (W_c * X), a convolution for each term."""

    def __init__(self, channels: int, k: int, dilation: int):
        super().__init__()
        padding = dilation * (k // 2)
        self.conv = nn.Conv2d(channels, channels, k, 1, padding, dilation, bias=False)
        self.attn = ChannelAttention(channels)

    def kernel(self) -> torch.Tensor:
        """W, C×C×k×k."""
        return self.conv.weight

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        """W * X."""
        return self.conv(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, half = self.kernel(), self.conv.kernel_size[0] // 2
        total = F.conv2d(x, kernel.sum((2, 3), keepdim=True))
        centre = F.conv2d(x, kernel[:, :, half : half + 1, half : half + 1])
        return total - self.neighbours(x) + self.attn(x) * centre


class LLSKM1D(LLSKM):
    """The separable form. `conv`, the k×k convolution, is dead, as it is in the official code."""

    def __init__(self, channels: int, k: int, dilation: int):
        super().__init__(channels, k, dilation)
        self.conv_1xn = nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2))
        self.conv_nx1 = nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0))

    def kernel(self) -> torch.Tensor:
        return self.conv_nx1.weight * self.conv_1xn.weight  # the outer product of each pair

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_nx1(self.conv_1xn(x))


def conv_norm(
    in_channels: int, channels: int, k: int = 3, stride: int = 1, bias: bool = False,
    relu: bool = True,
) -> list[nn.Module]:
    """Convolution → BN → ReLU, a list for nn.Sequential."""
    conv = nn.Conv2d(in_channels, channels, k, stride, k // 2, bias=bias)
    return [conv, nn.BatchNorm2d(channels)] + ([nn.ReLU(True)] if relu else [])


class ContrastNet(nn.Module):
    """The contrast stages, which both architectures have; `kernels` is "2D" or "1D"."""

    def __init__(self, kernels: str):
        super().__init__()
        kernel = {"2D": LLSKM, "1D": LLSKM1D}[kernels]
        for level, (channels, branches) in enumerate(zip(CHANNELS, BRANCHES[kernels])):
            for name, arguments in zip(self.branch_names(level), branches):
                layers = kernel(channels, *arguments), nn.BatchNorm2d(channels), nn.LeakyReLU(0.1)
                setattr(self, name, nn.Sequential(*layers))
            if level < 3:
                merge = nn.Sequential(*conv_norm(channels, channels))
                setattr(self, f"contrConV_{level}", merge)

    @staticmethod
    def branch_names(level: int) -> list[str]:
        """The official names of a level's branches."""
        return [f"contrast{level}_{i}" for i in range(4 - level)] if level < 3 else ["contrast3"]

    def contrast(self, level: int, x: torch.Tensor) -> torch.Tensor:
        """The contrast stage of `level`, N×C×H×W → N×C×H×W."""
        first, *others = (getattr(self, name)(x) for name in self.branch_names(level))
        total = sum(others, first)
        return getattr(self, f"contrConV_{level}")(total) if level < 3 else total


class DoubleConv(nn.Module):
    """[3×3 conv with bias → BN → ReLU] twice."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv = nn.Sequential(*conv_norm(in_channels, channels, bias=True),
                                  *conv_norm(channels, channels, bias=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Nearest ×2 → 3×3 conv with bias → BN → ReLU."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=2),
                                *conv_norm(in_channels, channels, bias=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x)


class UNet(ContrastNet):
    """N×1×H×W → N×1×H×W probabilities; other sizes than multiples of 8 are padded, as in ours."""

    def __init__(self, kernels: str):
        super().__init__(kernels)
        self.pool = nn.MaxPool2d(2)
        for level, (in_channels, channels) in enumerate(zip((1, *CHANNELS), CHANNELS)):
            setattr(self, f"Conv{level + 1}", DoubleConv(in_channels, channels))
        for level in (3, 2, 1):
            setattr(self, f"Up{level + 1}", Up(CHANNELS[level], CHANNELS[level - 1]))
            decoder = DoubleConv(CHANNELS[level], CHANNELS[level - 1])
            setattr(self, f"Up_conv{level + 1}", decoder)
        self.Conv = nn.Conv2d(CHANNELS[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if height % 8 or width % 8:
            x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        encoded = []
        for level in range(4):
            x = getattr(self, f"Conv{level + 1}")(x if level == 0 else self.pool(x))
            encoded.append(x)
        skips = [self.contrast(level, x) for level, x in enumerate(encoded)]
        x = skips[3]
        for level in (3, 2, 1):
            x = torch.cat([skips[level - 1], getattr(self, f"Up{level + 1}")(x)], 1)
            x = getattr(self, f"Up_conv{level + 1}")(x)
        return torch.sigmoid(self.Conv(x))[:, :, :height, :width]


class ResidualBlock(nn.Module):
    """3×3 conv → BN → ReLU → 3×3 conv → BN, plus the input (or its 1×1 projection), ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*conv_norm(in_channels, channels, stride=stride),
                                  *conv_norm(channels, channels, relu=False))
        projected = stride != 1 or in_channels != channels
        projection = conv_norm(in_channels, channels, 1, stride, relu=False)
        self.shortcut = nn.Sequential(*(projection if projected else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Fuse(nn.Module):
    """Coarser level → bilinear resize → 1×1 conv with bias → BN → ReLU, plus the finer level."""

    def __init__(self, coarse_channels: int, fine_channels: int):
        super().__init__()
        self.feature_high = nn.Sequential(*conv_norm(coarse_channels, fine_channels, 1, bias=True))

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        resized = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
        return self.feature_high(resized) + fine


class Head(nn.Module):
    """3×3 conv to C/4 → BN → ReLU → dropout 0.1 → 1×1 conv with bias."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 4
        self.block = nn.Sequential(*conv_norm(channels, hidden), nn.Dropout(0.1),
                                   nn.Conv2d(hidden, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class FPN(ContrastNet):
    """The feature pyramid, N×1×H×W → N×1×H×W probabilities."""

    def __init__(self, kernels: str):
        super().__init__(kernels)
        for level, (in_channels, channels) in enumerate(zip((1, *CHANNELS), CHANNELS)):
            first = ResidualBlock(in_channels, channels, 1 if level == 0 else 2)
            blocks = nn.Sequential(first, ResidualBlock(channels, channels, 1))
            setattr(self, f"layer{level}", blocks)
        for level in (3, 2, 1):
            setattr(self, f"fuse{level}{level - 1}", Fuse(CHANNELS[level], CHANNELS[level - 1]))
        self.head = Head(CHANNELS[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for level in range(4):
            x = getattr(self, f"layer{level}")(x)
            levels.append(x)
        levels = [self.contrast(level, x) for level, x in enumerate(levels)]
        x = levels[3]
        for level in (3, 2, 1):
            x = getattr(self, f"fuse{level}{level - 1}")(x, levels[level - 1])
        return torch.sigmoid(self.head(x))


NETWORKS = {
    "L2SKNet_UNet": (UNet, "2D"), "L2SKNet_FPN": (FPN, "2D"),
    "L2SKNet_1D_UNet": (UNet, "1D"), "L2SKNet_1D_FPN": (FPN, "1D"),
}


def build_twin(name: str, dropout: bool = True) -> ContrastNet:
    """A network of `NETWORKS`, weights drawn from PyTorch's generator, in float32.

    Args:
        dropout: False takes it out of the head of an FPN, for comparisons in training mode.
    """
    architecture, kernels = NETWORKS[name]
    net = architecture(kernels)
    for module in net.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return net


def get_weights(net: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and running statistics, official name → NumPy array (a copy)."""
    return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()
            if not name.endswith("num_batches_tracked")}


def load_weights(net: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Takes over a dict of official names → arrays, in the network's precision.

    Raises:
        RuntimeError: names or shapes do not fit; the dead kernels of a 1-D network may be missing.
    """
    dead = {f"{name}.conv.weight" for name, module in net.named_modules()
            if isinstance(module, LLSKM1D)}
    state = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    own = {name: value for name, value in net.state_dict().items()
           if name in dead or name.endswith("num_batches_tracked")}
    net.load_state_dict({**own, **state})


def soft_iou_loss(pred: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 − (Σpg + 1)/(Σp + Σg − Σpg + 1), the sums over the whole batch, in pred's precision."""
    intersection = (pred * mask).sum()
    return 1 - (intersection + 1) / (pred.sum() + mask.sum() - intersection + 1)
