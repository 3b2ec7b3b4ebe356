"""The C++ of the operators: `.h` files beside their Python, handed to Jittor as text.

Jittor compiles an operator anew when its text changes. An `#include` would hide the text from it,
and an edited file go on running as it was.
"""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def read_header(name: str) -> str:
    """The text of `name`, a file of this folder, for the `cpu_header` of `jt.code`."""
    return Path(__file__).with_name(name).read_text("utf-8")
