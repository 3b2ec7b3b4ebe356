"""The four networks and their loss. Two architectures × two kernel families, one code path each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from model.loss import soft_iou_loss

if TYPE_CHECKING:
    import jittor as jt


class Network(NamedTuple):
    """A row of `NETWORKS`.

    Attributes:
        module: the module of its class, e.g. "model.unet".
        architecture: the name of its class, a subclass of `model.contrast.ContrastNet`.
        family: the kernel family, "2D" (k×k) or "1D" (separable).
        bytes_per_pixel: peak of resident memory per pixel when a single image is predicted on a
            CPU, rounded up (x86-64, oneDNN, 1024×1024); docs/house.md says how to measure it.
    """

    module: str
    architecture: str
    family: str
    bytes_per_pixel: int


NETWORKS = {
    "L2SKNet_UNet": Network("model.unet", "UNet", "2D", 650),
    "L2SKNet_FPN": Network("model.fpn", "FPN", "2D", 600),
    "L2SKNet_1D_UNet": Network("model.unet", "UNet", "1D", 750),
    "L2SKNet_1D_FPN": Network("model.fpn", "FPN", "1D", 700),
}
MODEL_NAMES = tuple(NETWORKS)


def build_model(name: str, dropout: bool = True) -> jt.Module:
    """A new network, its weights drawn from NumPy's global generator.

    Args:
        name: one of `MODEL_NAMES`.
        dropout: False leaves out the dropout in the head of an FPN, for comparisons in training
            mode. The UNets have none.

    Returns:
        A Jittor module: N×1×H×W images in [0, 1] → probabilities of the same shape.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODEL_NAMES)}")
    network = NETWORKS[name]
    # Imported here, so that reading the list of names does not start Jittor.
    net = getattr(importlib.import_module(network.module), network.architecture)(network.family)
    if not dropout:
        net.leave_out_dropout()
    return net


def fast_form(net: jt.Module, dtype: str = "float32") -> jt.Module:
    """The network for prediction, with norms and constants folded; see `model.fast.fast`."""
    from model.fast import fast

    return fast(net, dtype)


__all__ = ["MODEL_NAMES", "NETWORKS", "Network", "build_model", "fast_form", "soft_iou_loss"]
