"""Operators with PyTorch's semantics, and how activations lie in memory.

`model/llskm.py`, `model/layers.py` and this folder are complete without the rest of the project.
"""

from __future__ import annotations

try:
    from utils.errors import UserError
    from utils.runtime import jt  # Jittor, started as this project needs it
except ImportError:  # copied into another project
    import jittor as jt

    UserError = ValueError

__all__ = ["UserError", "jt"]
