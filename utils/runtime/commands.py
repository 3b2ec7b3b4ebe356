"""Changes the commands with which Jittor compiles itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def rewritten(rewrite: Callable[[list[str], str], list[str]]) -> Iterator[None]:
    """Makes Jittor run `rewrite(its commands, cache folder)` while it is imported."""
    import jittor_utils

    plain = jittor_utils.run_cmds

    def run_cmds(commands, cache_path, *args, **kwargs):
        plain(rewrite(commands, cache_path), cache_path, *args, **kwargs)

    jittor_utils.run_cmds = run_cmds
    try:
        yield
    finally:
        jittor_utils.run_cmds = plain
