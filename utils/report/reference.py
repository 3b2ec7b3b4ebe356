"""Results reported of other programs, shown beside ours."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """One reported result, in the comparable definitions."""

    model: str
    framework: str
    mIoU: float
    fscore: float
    Pd: float
    Fa: float


REFERENCE_EPOCH = "best of 400"
REFERENCE_NOTE = (
    "reference: best of 400 epochs, one RTX 3090; not measured here, comparable only with training "
    "of that length. Its 1D rows are probably of a variant without biases in the separable "
    "convolutions.")

REFERENCE = (
    Reference("L2SKNet_UNet", "PyTorch", 0.9274, 0.9620, 0.9884, 2.8e-6),
    Reference("L2SKNet_UNet", "Jittor", 0.9371, 0.9674, 0.9862, 1.9e-6),
    Reference("L2SKNet_FPN", "PyTorch", 0.9156, 0.9553, 0.9841, 3.5e-6),
    Reference("L2SKNet_FPN", "Jittor", 0.9248, 0.9601, 0.9798, 2.4e-6),
    Reference("L2SKNet_1D_UNet", "PyTorch", 0.9089, 0.9512, 0.9762, 4.1e-6),
    Reference("L2SKNet_1D_UNet", "Jittor", 0.9134, 0.9548, 0.9785, 3.8e-6),
    Reference("L2SKNet_1D_FPN", "PyTorch", 0.8967, 0.9445, 0.9698, 5.2e-6),
    Reference("L2SKNet_1D_FPN", "Jittor", 0.9012, 0.9478, 0.9721, 4.8e-6),
)


def references(dataset_name: str) -> tuple[Reference, ...]:
    """The reported results for a dataset; they are known for NUDT-SIRST alone."""
    return REFERENCE if dataset_name == "NUDT-SIRST" else ()
