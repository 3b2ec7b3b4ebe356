"""What the contrast stages of a network see of an image: maps, θ and kernels, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from utils import runtime


class Branch(NamedTuple):
    """One branch of a contrast stage of C channels, for one image.

    Attributes:
        dilation: distance of neighbouring taps in pixels of `Stage.before`.
        theta: C, between 0 and 1.
        response: C×H×W, what the LLSKM gives.
        output: C×H×W, `response` after the norm and the activation.
        kernel: O×I×k×k float64, with which the branch convolves input channel I for output channel
            O. The k×k form: K = δ·(W_sum + θ∘W_c) − W. The separable form: W is the row, then the
            column, summed over the C channels between them.
        row: O×I×1×k, the first convolution of the separable form; None in the k×k form.
        column: O×I×k×1, the second convolution of the separable form; None in the k×k form.
    """

    dilation: int
    theta: np.ndarray
    response: np.ndarray
    output: np.ndarray
    kernel: np.ndarray
    row: np.ndarray | None = None
    column: np.ndarray | None = None

    @property
    def size(self) -> int:
        """k."""
        return self.kernel.shape[2]


class Stage(NamedTuple):
    """The contrast stage of one level, for one image.

    Attributes:
        before: C×H×W, what enters the stage.
        branches: in the order of `model.contrast`.
        after: C×H×W, what leaves the stage.
    """

    before: np.ndarray
    branches: list[Branch]
    after: np.ndarray


def capture_stages(net: runtime.jt.Module, image: np.ndarray) -> list[Stage]:
    """The contrast stages of a network that predicts an image, the finest level first.

    A UNet pads its images, so the maps may be larger than `image` at the bottom and at the right.

    Args:
        net: of `model.build_model`, with its weights; not the fast form, which has no norms. It is
            left in evaluation mode.
        image: H×W float32 in [0, 1].
    """
    from model.ops.layout import leave

    parts = [part for stage in net.stages for kernel, norm in stage.branches
             for part in (kernel, kernel.attn, norm)]
    parts += [stage.merge for stage in net.stages if stage.merge is not None]

    def array(variable):
        return leave(variable).numpy()[0]

    net.eval()
    with runtime.jt.no_grad(), keep_calls(dict(zip(parts, parts))) as calls:
        net(runtime.jt.array(image[None, None]))
        stages = []
        for stage in net.stages:
            branches = []
            for kernel, norm in stage.branches:
                (before, _), response = calls[kernel]
                (_, theta), (_, output) = calls[kernel.attn], calls[norm]
                branches.append(Branch(
                    getattr(kernel, "dilation", 1), theta.numpy().reshape(-1), array(response),
                    array(output), *_kernels(kernel, theta)))
            after = branches[-1].output if stage.merge is None else array(calls[stage.merge][1])
            stages.append(Stage(array(before), branches, after))
    return stages


def _kernels(kernel, theta):
    """`Branch.kernel`, and of the separable form `row` and `column`."""
    kernels = kernel.kernels(theta).numpy()[0].astype(np.float64)
    if not hasattr(kernel, "conv_1xn"):
        return (kernels,)
    row, column = kernel.conv_1xn.weight.numpy(), kernel.conv_nx1.weight.numpy()
    half = kernel.kernel_size // 2
    both = np.einsum("omy,mix->oiyx", column[..., 0], row[:, :, 0], dtype=np.float64,
                     optimize=True)
    return np.pad(kernels, [(0, 0), (0, 0), (half, half), (half, half)]) - both, row, column


@contextmanager
def keep_calls(
    modules: Mapping[Hashable, runtime.jt.Module],
) -> Iterator[dict[Any, tuple[tuple, runtime.jt.Var]]]:
    """Yields the arguments and the result of each module's last call, by its name in `modules`.

    They are in the order of the first calls.
    """
    calls: dict[Any, tuple[tuple, runtime.jt.Var]] = {}
    for name, module in modules.items():
        module.execute = _keeping(module.execute, name, calls)
    try:
        yield calls
    finally:
        for module in modules.values():
            vars(module).pop("execute", None)


def _keeping(execute: Callable, name: Hashable, calls: dict) -> Callable:
    def keeping(*arguments):
        result = execute(*arguments)
        calls[name] = arguments, result
        return result

    return keeping
