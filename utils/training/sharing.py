"""A batch that several ranks share (`utils.runtime.ranks`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from utils import runtime
from utils.runtime import ranks


@contextlib.contextmanager
def sharing(images: int) -> Iterator[None]:
    """While it is open, the ranks share a batch of `images` images: each computes `ranks.part`."""
    if ranks.size() == 1:
        yield
        return
    from model.ops.sharing import Batch, share_batch  # starts Jittor

    class RankBatch(Batch):
        """The images of this rank; the batch lies on the ranks one after the other."""

        whole = False

        def __init__(self, start, stop):
            self.start, self.own = start, stop - start
            # An array, not zeros(): Jittor would fuse a computed value with the operators after it.
            self.token = runtime.jt.array(np.zeros(2, np.float32)).stop_grad()

        def images(self, own):
            return images

        def sum(self, x, after):
            return ranks.all_sum(x, after)

        def sums(self, arrays):
            return ranks.all_sums(arrays)

        def weigh(self, x):
            # A product, not a constant: Jittor would drop the exchanges that x depends on.
            return x if self.own else x * 0

        def random(self, shape):
            start = self.start if self.own else 0
            return runtime.jt.random((images, *shape[1:]))[start : start + shape[0]]

    with share_batch(RankBatch(*ranks.bounds(images))):
        yield
