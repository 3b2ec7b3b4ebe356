"""What the entries have in common."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Results = dict[str, Any]  # quantity → an array or a number, or a str that is shown as it is


class Entry(abc.ABC):
    """Something that the networks or their training depend on, as each side computes it.

    Attributes:
        name: of the difference.
    """

    name: str

    @abc.abstractmethod
    def truth(self) -> Results:
        """NumPy's, in double precision, by PyTorch's definition."""

    @abc.abstractmethod
    def stock(self, jt: ModuleType) -> Results:
        """That of Jittor's own pieces."""

    @abc.abstractmethod
    def ours(self, jt: ModuleType) -> Results:
        """That of this project's."""

    @abc.abstractmethod
    def pytorch(self, torch: ModuleType) -> Results:
        """PyTorch's, in a process without Jittor."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers drawn from N(0, 1), float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attempt(function: Callable[[], object]) -> str:
    """"accepted" or "refused", and nothing of what is printed meanwhile."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        try:
            function()
        except Exception:  # each framework has its own
            return "refused"
    return "accepted"
