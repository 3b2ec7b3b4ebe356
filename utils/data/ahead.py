"""Reads items in threads, a few ahead of the one that is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(
    pool: ThreadPoolExecutor, items: Iterable[Item], read: Callable[[Item], object], ahead: int
) -> Iterator[tuple[Item, Future]]:
    """Yields each item and the future result of `read`, while `ahead` items after it are read.

    The pool's own `map` would read all items at once, into memory.
    """
    waiting: deque[tuple[Item, Future]] = deque()
    for item in items:
        waiting.append((item, pool.submit(read, item)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
