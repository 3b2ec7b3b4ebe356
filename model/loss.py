"""SoftIoU, the training loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jittor as jt


def soft_iou_loss(pred: jt.Var, mask: jt.Var) -> jt.Var:
    """1 − (Σpg + 1)/(Σp + Σg − Σpg + 1), the sums over the whole batch and in double precision.

    Args:
        pred: probabilities p, N×1×H×W.
        mask: ground truth g of 0 and 1, of the same shape.

    Returns:
        A float64 scalar.
    """
    from .ops.sharing import loss_sum  # starts Jittor
    from .ops.sums import overlap_sums

    sums = loss_sum(overlap_sums(pred, mask))
    intersection, of_pred, of_mask = sums[0], sums[1], sums[2]
    union = of_pred + of_mask - intersection
    return 1.0 - (intersection + 1.0) / (union + 1.0)
