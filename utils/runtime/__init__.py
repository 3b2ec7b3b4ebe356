"""The one place that imports Jittor, after preparing what Jittor expects of its machine.

    from utils.runtime import start, jt
    runtime = start("auto")         # "cpu" and "cuda" are demands, "auto" takes what there is
    print(runtime.describe())

Nothing happens at import. `jt` is Jittor itself, started on first use (with $L2SKNET_DEVICE or
"auto") if `start` was not called before.

    python -m utils.runtime         # what was found, and whether the operators compute right
"""

from __future__ import annotations

from types import ModuleType

from utils.runtime.boot import (
    BF16,
    DEVICES,
    PRECISIONS,
    Runtime,
    precision,
    set_seed,
    start,
    start_if_needed,
    use_cuda,
)
from utils.runtime.home import jittor_home
from utils.runtime.onednn import cpu_instructions, onednn_folder

__all__ = [
    "BF16",
    "DEVICES",
    "PRECISIONS",
    "Runtime",
    "cpu_instructions",
    "jittor_home",
    "onednn_folder",
    "precision",
    "set_seed",
    "start",
    "start_if_needed",
    "use_cuda",
]


def __getattr__(name: str) -> ModuleType:
    if name == "jt":
        return start_if_needed()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
