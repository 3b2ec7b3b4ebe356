"""The four networks and their loss. Two architectures × two kernel families, one code path each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from model.loss import soft_iou_loss

if TYPE_CHECKING:
    import jittor as jt


class Network(NamedTuple):
    """What is known of a network beside its code.

    Attributes:
        architecture: "UNet" or "FPN".
        kernels: the kernel family, "2D" (k×k) or "1D" (separable).
        bytes_per_pixel: peak of resident memory that a prediction takes for each pixel on the CPU,
            rounded up, as `python -m benchmarks.cost --size 1024` and more print it (x86-64,
            oneDNN).
    """

    architecture: str
    kernels: str
    bytes_per_pixel: int


NETWORKS = {
    "L2SKNet_UNet": Network("UNet", "2D", 650),
    "L2SKNet_FPN": Network("FPN", "2D", 600),
    "L2SKNet_1D_UNet": Network("UNet", "1D", 750),
    "L2SKNet_1D_FPN": Network("FPN", "1D", 700),
}
MODEL_NAMES = tuple(NETWORKS)


def build_model(name: str, dropout: bool = True) -> jt.Module:
    """A new network, its weights drawn from NumPy's global generator.

    Args:
        name: one of `MODEL_NAMES`.
        dropout: False leaves out the dropout in the head of an FPN, for comparisons in training
            mode; the UNets have none.

    Returns:
        A Jittor module: N×1×H×W images in [0, 1] → probabilities of the same shape.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODEL_NAMES)}")
    # Here and not above: the list of names must not cost the start of Jittor.
    from model.fpn import FPN
    from model.unet import UNet

    network = NETWORKS[name]
    if network.architecture == "UNet":
        return UNet(network.kernels)
    return FPN(network.kernels, dropout)


def fast_form(net: jt.Module, dtype: str = "float32") -> jt.Module:
    """The network for prediction, norms and constants folded (`model.fast`); no gradients.

    Args:
        dtype: of activations, "float32" or "bfloat16".
    """
    from model.fast import fast

    return fast(net, dtype)


__all__ = ["MODEL_NAMES", "NETWORKS", "Network", "build_model", "fast_form", "soft_iou_loss"]
