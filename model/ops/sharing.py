"""Sums over a batch that several processes share.

Norms and the loss sum over a batch. The sums of a process that holds the whole batch are complete.
Where several processes share a batch, `utils.training.sharing` calls `share_batch` for the time of
a step, and all sums go through its `Batch`. Nothing else in a network depends on other processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from . import jt


class Batch:
    """The part of a batch that this process computes. In this base class that is all of it.

    Attributes:
        whole: True if this process holds the whole batch.
        token: result of the last exchange, or None. Each exchange takes the token of the one
            before, so that all processes exchange in one order.
    """

    whole = True
    token: jt.Var | None = None

    def images(self, own: int) -> int:
        """Number of images in the batch, of which this process holds `own`."""
        return own

    def sum(self, x: jt.Var, after: jt.Var | None) -> jt.Var:
        """Σ of `x` over the processes, once `after` is computed; without gradient."""
        return x

    def weigh(self, x: jt.Var) -> jt.Var:
        """`x`; zeros if this process has no image of its own and computes on a stand-in."""
        return x

    def sums(self, arrays: Sequence[jt.Var]) -> list[jt.Var]:
        """Σ of each array over the processes."""
        return list(arrays)

    def random(self, shape: tuple[int, ...]) -> jt.Var:
        """Uniform numbers in [0, 1); an image gets the numbers that a single process would draw."""
        return jt.random(shape)


_batch = Batch()


def current_batch() -> Batch:
    """The batch of the step under way."""
    return _batch


@contextlib.contextmanager
def share_batch(batch: Batch) -> Iterator[None]:
    """Sends all sums over the batch through `batch`."""
    global _batch
    before, _batch = _batch, batch
    try:
        yield
    finally:
        _batch = before


class _Sum(jt.Function):
    """Σ over the processes, and the token of this exchange."""

    def __init__(self, batch):
        self.batch = batch

    def execute(self, x, token):
        y = self.batch.sum(self.batch.weigh(x), token)
        return y, y

    def grad(self, dy, token):
        dx = self.batch.sum(dy, token)
        return self.batch.weigh(dx), dx


class _LossSum(_Sum):
    """Σ over the processes, whose gradient is not summed."""

    def grad(self, dy, _):
        return self.batch.weigh(dy), None


def batch_sum(x: jt.Var) -> jt.Var:
    """Σ of `x` over the processes that share the batch, for use in norms.

    Every process uses the sum for its own images, so the gradient is summed over them too.
    """
    return _exchanged(_Sum, x)


def loss_sum(x: jt.Var) -> jt.Var:
    """Σ of `x` over the processes, for the loss.

    Every process computes the whole loss from the sum, so the gradient is not summed.
    """
    return _exchanged(_LossSum, x)


def _exchanged(function, x):
    batch = current_batch()
    if batch.whole:
        return x
    y, batch.token = function(batch)(x, batch.token)
    return y
