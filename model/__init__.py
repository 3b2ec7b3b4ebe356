"""The four networks and their loss. Two architectures × two kernel families, one code path each."""

from __future__ import annotations

from model.loss import soft_iou_loss

_KERNELS = {  # per network: its architecture, its kernel family
    "L2SKNet_UNet": ("UNet", "2D"),
    "L2SKNet_FPN": ("FPN", "2D"),
    "L2SKNet_1D_UNet": ("UNet", "1D"),
    "L2SKNet_1D_FPN": ("FPN", "1D"),
}
MODEL_NAMES = tuple(_KERNELS)


def build_model(name):
    """A new network, its weights drawn from NumPy's global generator.

    Args:
        name: one of `MODEL_NAMES`.

    Returns:
        A Jittor module: N×1×H×W images in [0, 1] → probabilities of the same shape.

    Raises:
        ValueError: an unknown name.
    """
    if name not in _KERNELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODEL_NAMES)}")
    # Here and not above: the list of names must not cost the start of Jittor.
    from model.fpn import FPN
    from model.unet import UNet

    architecture, kernels = _KERNELS[name]
    return {"UNet": UNet, "FPN": FPN}[architecture](kernels)


__all__ = ["MODEL_NAMES", "build_model", "soft_iou_loss"]
