"""Imports Jittor, after preparing what it expects of the machine. No other code imports it.

    from utils.runtime import start
    runtime = start("auto")         # "cpu" and "cuda" demand that device, "auto" takes any
    print(runtime.describe())
    from utils.runtime import jt    # Jittor; this line starts it too, on $L2SKNET_DEVICE or "auto"

Importing this package does nothing else.

    python -m utils.runtime         # reports the machine, and checks the operators
"""

from __future__ import annotations

from types import ModuleType

from utils.runtime.boot import (
    BF16,
    DEVICES,
    PRECISIONS,
    Runtime,
    on_gpu,
    precision,
    set_seed,
    start,
    start_if_needed,
)
from utils.runtime.home import jittor_home

__all__ = [
    "BF16",
    "DEVICES",
    "PRECISIONS",
    "Runtime",
    "jittor_home",
    "on_gpu",
    "precision",
    "set_seed",
    "start",
    "start_if_needed",
]


def __getattr__(name: str) -> ModuleType:
    if name == "jt":
        return start_if_needed()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
