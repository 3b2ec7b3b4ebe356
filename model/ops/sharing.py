"""What a network does differently where several ranks share a batch (`utils.runtime.ranks`)."""

from __future__ import annotations

from collections.abc import Sequence

from utils.runtime import jt, ranks


class _Sum(jt.Function):
    """Σ over the ranks, and the token that comes after it."""

    def __init__(self, share):
        self.share = share

    def execute(self, x, token):
        y = ranks.all_sum(self.share.weigh(x), token)
        return y, y

    def grad(self, dy, token):
        dx = ranks.all_sum(dy, token)
        return self.share.weigh(dx), dx


class _LossSum(_Sum):
    def grad(self, dy, _):
        return self.share.weigh(dy), None


def sum_of_ranks(x: jt.Var) -> jt.Var:
    """Σ of x over the ranks that share the batch.

    Each goes on with it on images of its own, so that its gradient is a sum over them as well.
    """
    share = ranks.share()
    y, share.token = _Sum(share)(x, share.token)
    return y


def sums_for_loss(scalars: Sequence[jt.Var]) -> list[jt.Var]:
    """Σ of each over the ranks that share the batch, from which all compute one and the same loss.

    So the gradient of each rank's part is the loss's own, and nothing is added up.
    """
    share = ranks.share()
    sums, share.token = _LossSum(share)(jt.concat(list(scalars)), share.token)
    return [sums[i] for i in range(len(scalars))]


def random(shape: tuple[int, ...]) -> jt.Var:
    """Uniform in [0, 1), for each image as one process with the whole batch would draw it."""
    share = ranks.share()
    if share is None:
        return jt.random(shape)
    start = share.start if share.own else 0
    return jt.random((share.total, *shape[1:]))[start : start + shape[0]]
