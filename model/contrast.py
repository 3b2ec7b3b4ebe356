"""The multi-scale contrast stages, common to all four networks (Wu et al., TGRS 2024;
official file model/L2SKNet/L2SKNet.py)."""

from __future__ import annotations

from model.blocks import ConvStack, conv3x3
from model.llskm import LLSKM, LLSKM1D, global_average
from model.ops.batch_norm import LEAKY, RELU, BatchNorm
from utils.runtime import jt

CHANNELS = (16, 32, 64, 128)

# Per level, its parallel branches: the arguments of the kernel after its channels.
BRANCHES_2D = (
    ((9, 2), (5, 2), (3, 2), (3, 1)),
    ((5, 2), (3, 2), (3, 1)),
    ((3, 2), (3, 1)),
    ((3, 1),),
)
BRANCHES_1D = (
    ((17,), (9,), (5,), (3,)),
    ((9,), (5,), (3,)),
    ((5,), (3,)),
    ((3,),),
)
KERNEL_FAMILIES = {"2D": (LLSKM, BRANCHES_2D), "1D": (LLSKM1D, BRANCHES_1D)}


class Branch(jt.Module):
    """LLSKM → BN → LeakyReLU(0.1)."""

    def __init__(self, kernel, channels):
        setattr(self, "0", kernel)
        setattr(self, "1", BatchNorm(channels, LEAKY))

    def execute(self, x, pooled):
        return getattr(self, "1")(getattr(self, "0")(x, pooled))


class ContrastNet(jt.Module):
    """A network with a contrast stage on each of its four levels; `kernels` is "2D" or "1D".

    The stages live here, rather than in modules of their own, because the official names of their
    parameters have no level between (`contrast0_1.0.conv.weight`, `contrConV_0.0.weight`).
    """

    def __init__(self, kernels):
        kernel, levels = KERNEL_FAMILIES[kernels]
        self.branch_names = []
        for level, (channels, branches) in enumerate(zip(CHANNELS, levels)):
            single = len(branches) == 1
            names = [f"contrast{level}" + ("" if single else f"_{i}") for i in range(len(branches))]
            for name, arguments in zip(names, branches):
                setattr(self, name, Branch(kernel(channels, *arguments), channels))
            if not single:
                merge = (0, conv3x3(channels, channels), BatchNorm(channels, RELU))
                setattr(self, f"contrConV_{level}", ConvStack(merge))
            self.branch_names.append(names)

    def contrast(self, level, x):
        """The contrast stage of `level`, N×C×H×W → N×C×H×W."""
        pooled = global_average(x)
        names = self.branch_names[level]
        total = sum(getattr(self, name)(x, pooled) for name in names[1:]) if names[1:] else 0
        total = getattr(self, names[0])(x, pooled) + total
        return total if len(names) == 1 else getattr(self, f"contrConV_{level}")(total)
