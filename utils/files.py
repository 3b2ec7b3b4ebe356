"""Writes files completely or not at all."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

STEM = 40  # characters of the file name in the temporary name: names end at 255 bytes


def write_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Writes a UTF-8 file as `atomic_path` does.

    Bytes of file names that are not UTF-8 are written as escapes, which JSON understands.
    """
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def is_utf16(start: bytes) -> bool:
    """True if a file begins with the mark of UTF-16: "Unicode" of Notepad, `>` of PowerShell."""
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` if the block succeeds.

    Makes parent folders. If the block fails, `path` stays as it was and the temporary file goes.

    Args:
        durable: True waits until the file is on the disk. Without, a power cut may leave an empty
            file, since the new name can reach the disk before the content.

    Raises:
        OSError: names the file, even where the system does not (disk full).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        temporary = _new_file(path)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            with contextlib.suppress(OSError):  # EINVAL: a shared folder cannot be flushed
                _flush(path.parent)
    except OSError as error:
        if error.filename and Path(error.filename).parent != path.parent:
            raise  # an error about another file, which it names
        reason = (error.errno, error.strerror, str(path)) if error.errno else (f"{path}: {error}",)
        raise OSError(*reason) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _new_file(path):
    """Makes an empty file beside `path`; not by mkstemp, which lets only the owner read it."""
    # The suffix stays last: Pillow and others choose the format by it.
    file = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return file


def _prefix(path):
    return f".{path.stem[:STEM]}-"


def _flush(path):
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: str | Path) -> None:
    """Removes temporary files for `path` that killed processes have left.

    No other process may be writing `path`.
    """
    path = Path(path)
    if path.parent.is_dir():
        for file in path.parent.iterdir():
            if file.name.startswith(_prefix(path)) and file.suffix == path.suffix:
                file.unlink(missing_ok=True)


def link_or_copy(file: str | Path, place: str | Path) -> None:
    """Makes `place` a symbolic link to `file`, or a copy if the file system has no links.

    Args:
        file: the target of the link; a relative path starts from the folder of `place`.
        place: the new name.

    Raises:
        FileExistsError: `place` exists.
    """
    try:
        os.symlink(file, place)
    except FileExistsError:
        raise
    except OSError:  # exFAT, Google Drive, shared folders: one of half a dozen error numbers
        shutil.copyfile(Path(place).parent / file, place)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Locks a folder against other trainings until the block or this process ends.

    Raises:
        UserError: another process holds the lock.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = [os.open(folder, os.O_RDONLY)]

    def release() -> None:
        while held:
            os.close(held.pop())

    # Otherwise Jittor's compiler processes would keep the lock of a killed parent.
    os.register_at_fork(after_in_child=release)
    try:
        with contextlib.suppress(OSError):  # a network file system may lack locks
            try:
                fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: another process is training into this folder; wait "
                                "for it, or take another --output_dir") from None
        yield
    finally:
        release()
