"""The folder in which Jittor keeps its compiled code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from pathlib import Path

from utils.environment import check_path
from utils.errors import UserError


def jittor_home() -> Path:
    """The absolute path of the folder in whose `.cache/jittor` Jittor keeps its compiled code.

    It is $JITTOR_HOME, or the folder that an earlier Jittor remembered, or the user's home.

    Raises:
        UserError: nothing can be written there.
    """
    user_home = os.path.expanduser("~")
    remembered = None
    with contextlib.suppress(OSError, ValueError):
        config = Path(user_home, ".cache", "jittor", "config.json").read_text()
        remembered = json.loads(config).get("JITTOR_HOME")
    chosen = os.environ.get("JITTOR_HOME") or remembered or user_home
    if chosen == "~":  # neither $HOME nor an entry in /etc/passwd
        raise UserError("this user has no home folder, where Jittor could keep its compiled code; "
                        "export JITTOR_HOME=/tmp/jittor-$USER")
    home = os.path.abspath(chosen)
    check_path(home, "export JITTOR_HOME=/tmp/jittor-$USER")
    cache = Path(home, ".cache", "jittor")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise UserError(
            f"{cache}: Jittor cannot keep its compiled code here ({error.strerror}); choose a "
            "folder that can be written, `export JITTOR_HOME=/tmp/jittor-$USER`, or if another "
            f"user owns this one, `sudo chown -R $USER {cache}`") from None
    return Path(home)


def has_locks(folder: Path) -> bool:
    """True if the file system has both kinds of locks, which network folders may lack."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:
            return False
    return True
