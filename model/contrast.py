"""The multi-scale contrast stages, common to all four networks (Wu et al., TGRS 2024;
official file model/L2SKNet/L2SKNet.py)."""

from __future__ import annotations

from collections.abc import Sequence

from .layers import LEAKY, RELU, BatchNorm, ConvStack, add_norms, conv3x3
from .llskm import LLSKM, LLSKM1D
from .ops import jt
from .ops.elementwise import global_average, probability
from .ops.layout import enter, leave
from .ops.resize import crop, pad_to_multiple

CHANNELS = (16, 32, 64, 128)

# One row per level, one (kernel size, dilation) per parallel branch.
BRANCHES_2D = (
    ((9, 2), (5, 2), (3, 2), (3, 1)),
    ((5, 2), (3, 2), (3, 1)),
    ((3, 2), (3, 1)),
    ((3, 1),),
)
BRANCHES_1D = (  # (kernel size,): the width that the dilated 2-D kernel spans
    ((17,), (9,), (5,), (3,)),
    ((9,), (5,), (3,)),
    ((5,), (3,)),
    ((3,),),
)
KERNEL_FAMILIES = {"2D": (LLSKM, BRANCHES_2D), "1D": (LLSKM1D, BRANCHES_1D)}


class Branch(jt.nn.Sequential):
    """LLSKM → BN → LeakyReLU(0.1)."""

    def __init__(self, llskm: LLSKM | LLSKM1D, channels: int):
        super().__init__(llskm, BatchNorm(channels, LEAKY))


class ContrastStage:
    """The contrast stage of one level, N×C×H×W → N×C×H×W: the sum of its branches, then `merge`.

    Not a jt.Module: the official parameter names have no prefix for a stage
    (`contrast0_1.0.conv.weight`, `contrConV_0.0.weight`), so `ContrastNet` owns the parts.
    """

    def __init__(self, branches: Sequence[Branch], merge: ConvStack | None):
        self.branches, self.merge = branches, merge

    def __call__(self, x: jt.Var) -> jt.Var:
        pooled = global_average(x)
        llskms, norms = zip(*self.branches)
        # The order of these calls decides in which order the gradients of x are added, and so their
        # rounding. Branch 0 is computed last.
        *others, first = [llskm(x, pooled) for llskm in (*llskms[1:], llskms[0])]
        total = add_norms(norms, [first, *others])
        return total if self.merge is None else self.merge(total)


class ContrastNet(jt.Module):
    """A network with a contrast stage on each of its four levels.

    A subclass defines `logits`, N×1×H×W → N×1×H×W, which calls `contrast` once per level.

    Args:
        family: kernel family, "2D" or "1D".
    """

    multiple = 1  # height and width of an image are padded to multiples of this number

    def __init__(self, family: str):
        llskm, levels = KERNEL_FAMILIES[family]
        self.stages = []
        for level, (channels, row) in enumerate(zip(CHANNELS, levels)):
            branches = [Branch(llskm(channels, *sizes), channels) for sizes in row]
            if len(branches) == 1:
                self.add_module(f"contrast{level}", branches[0])
                self.stages.append(ContrastStage(branches, None))
                continue
            for i, branch in enumerate(branches):
                self.add_module(f"contrast{level}_{i}", branch)
            merge = ConvStack({0: (conv3x3(channels, channels), BatchNorm(channels, RELU))})
            self.add_module(f"contrConV_{level}", merge)
            self.stages.append(ContrastStage(branches, merge))

    def leave_out_dropout(self) -> None:
        """Sets the rate of all dropout to zero."""
        for part in self.modules():
            if hasattr(part, "dropout"):
                part.dropout = 0.0

    def contrast(self, level: int, x: jt.Var) -> jt.Var:
        """The contrast stage of `level`, N×C×H×W → N×C×H×W."""
        return self.stages[level](x)

    def execute(self, image: jt.Var) -> jt.Var:
        """N×1×H×W in [0, 1] → probabilities of the same shape."""
        height, width = image.shape[2:]
        # Between `enter` and `leave`, a CPU holds activations in blocks of channels.
        x = enter(pad_to_multiple(image, self.multiple))
        return crop(leave(probability(self.logits(x))), height, width)
