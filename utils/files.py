"""Files that are either complete or not there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

STEM = 40  # characters of a file's name that its temporary one has: names may be 255 bytes long


def write_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Writes a UTF-8 file, whole or not at all; `durable` of `atomic_path`.

    Names of files that are no UTF-8 stand in it with escapes, which JSON understands.
    """
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its name once the block has succeeded.

    Parent folders are made. A block that fails leaves `path` as it was and nothing behind.

    Args:
        path: of the file.
        durable: whether a power cut afterwards may cost it no longer. Without, the name can be on
            the disk before the content is, and the file then is empty.

    Raises:
        OSError: with the name of the file, also where the system does not give one (disk full).
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
            raise  # of another file, which it names
        reason = (error.errno, error.strerror, str(path)) if error.errno else (f"{path}: {error}",)
        raise OSError(*reason) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _new_file(path):
    """An empty file beside `path`; not by mkstemp, for a result is as readable as any new file."""
    # The suffix stays last: writers such as Pillow choose the format by it.
    file = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return file


def _prefix(path):
    return f".{path.stem[:STEM]}-"


def _flush(path):
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: str | Path) -> None:
    """Removes the temporary files of `atomic_path` for `path` that killed processes have left.

    Nobody else may be writing `path` meanwhile.
    """
    path = Path(path)
    if path.parent.is_dir():
        for file in path.parent.iterdir():
            if file.name.startswith(_prefix(path)) and file.suffix == path.suffix:
                file.unlink(missing_ok=True)


def keep_as(path: str | Path, other: str | Path) -> None:
    """Gives the present content of `path` the name `other` as well, without copying it.

    Where the file system knows no second names, `path` is renamed.
    """
    path, other = Path(path), Path(other)
    link = other.with_name(f"{_prefix(other)}link{other.suffix}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, other)
        return
    try:
        os.replace(link, other)
    finally:
        link.unlink(missing_ok=True)  # which is still there if both were one file already


def link_or_copy(file: str | Path, place: str | Path) -> bool:
    """Makes `place` a symbolic link to `file`, or a copy where the file system has no links.

    Args:
        file: what the link is to say; a relative path counts from the folder of `place`.
        place: the new name.

    Returns:
        Whether it is a link.

    Raises:
        FileExistsError: `place` is there already.
    """
    try:
        os.symlink(file, place)
    except FileExistsError:
        raise
    except OSError:  # exFAT, Google Drive, shared folders: one of half a dozen error numbers
        shutil.copyfile(Path(place).parent / file, place)
        return False
    return True


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keeps all other processes that ask for the same folder out, until the block or we end.

    Raises:
        UserError: another process is in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = [os.open(folder, os.O_RDONLY)]

    def release() -> None:
        while held:
            os.close(held.pop())

    # Or processes that compile for Jittor would keep the lock of a killed parent.
    os.register_at_fork(after_in_child=release)
    try:
        with contextlib.suppress(OSError):  # a network file system may know no locks
            try:
                fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: another process is training into this folder; wait "
                                "for it, or take another --output_dir") from None
        yield
    finally:
        release()
