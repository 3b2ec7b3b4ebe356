"""Unpacks the images, lists and annotations of a dataset from a zip."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.data.decoding import EXTENSIONS
from utils.data.layouts import hidden
from utils.errors import UserError

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it
    LZMAError = EOFError

_KEPT = (*EXTENSIONS, ".txt", ".json", ".xml")
_UTF_8 = 0x800  # the flag of an entry whose name is in UTF-8


def unpack(archive: Path, folder: Path) -> str:
    """Unpacks images, lists and annotations into a new folder.

    Returns:
        The encoding of the names, if the zip does not name it and they are not ASCII; else "".

    Raises:
        UserError: the zip is damaged or too large, or has names that lead out of the folder.
    """
    folder.mkdir()
    entry = ""
    try:
        with zipfile.ZipFile(archive) as opened:
            encoding = _name_encoding(opened.infolist())
            for info in opened.infolist():
                if encoding and not info.flag_bits & _UTF_8:
                    info.filename = info.filename.encode("cp437").decode(encoding)
                info.filename = info.filename.replace("\\", "/")  # from Windows
            members = [info for info in opened.infolist() if _wanted(archive, info)]
            size = sum(info.file_size for info in members)
            if size > shutil.disk_usage(folder).free:
                raise UserError(f"{archive}: needs {size / 1e9:.1f} GB unpacked, more than is free "
                                f"in {folder.parent.parent}; make room there")
            for info in tqdm(members, "unpacking", unit="file", leave=False, disable=None):
                entry = f": {info.filename}"
                opened.extract(info, folder)
    except (zipfile.BadZipFile, zlib.error, LZMAError, UnicodeError, RuntimeError,
            NotImplementedError, EOFError, OSError) as error:
        if getattr(error, "errno", None):  # of the system; that of a damaged bzip2 has none
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive}{entry}: cannot be unpacked as a zip ({reason}); download it "
                        "anew, or unpack it yourself and name the folder") from error
    return encoding


def _name_encoding(entries: Sequence[zipfile.ZipInfo]) -> str:
    """The encoding of names without the flag for UTF-8; empty if they are ASCII or it is unknown.

    macOS writes UTF-8 without the flag, Windows in China writes GBK.
    """
    plain = [info.filename for info in entries if not info.flag_bits & _UTF_8]
    names = "\n".join(name for name in plain if not name.isascii())
    for encoding in ("utf-8", "gbk") if names else ():
        try:
            names.encode("cp437").decode(encoding)  # Python has read them as CP 437
        except UnicodeError:
            continue
        return encoding.upper()
    return ""


def _wanted(archive: Path, info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise UserError(f"{archive}: its file {path} would be written outside the dataset's "
                        "folder; do not trust this zip")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive}: its file {path} is a link, not a file; unpack it yourself, "
                        "check it, and name the folder")
    return (not info.is_dir() and not any(map(hidden, path.parts))
            and path.suffix.lower() in _KEPT)
