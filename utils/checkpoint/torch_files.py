"""Reads weights of PyTorch and Jittor, and writes PyTorch's, without either package.

Reads both formats of `torch.save` (the zip of PyTorch 1.6 and later, and the format before it),
`jittor.save`, and plain pickles, under any file name. Nothing in a file is executed, see
`utils.checkpoint.unpickle`. The result takes at most a few times the memory of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from utils.checkpoint.unpickle import BFLOAT16, STORAGES, Refused, check, unpickle
from utils.errors import UserError
from utils.files import atomic_path

SUFFIXES = (".pth", ".pth.tar", ".pt")  # of files that can be written
LARGEST = 2**30  # bytes of memory; the networks and all their moments are 13 MB
_READ_SUFFIXES = (*SUFFIXES, ".ckpt", ".bin", ".pkl", ".pickle")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before PyTorch 1.6
_JITTOR_TAIL = b"HCAJSLHD"  # after the pickle and its SHA-1

_UNPACK = ("an archive", "unpack it, and name the checkpoint in it")
_PAGE = ("a web page", "download the file itself")
_HDF5 = ("HDF5 or Keras", "save its weights as an .npz, under the names of ours")
_SAFETENSORS = ("safetensors", "save what safetensors.torch.load_file returns with torch.save")
_ONNX = ("ONNX", "take the checkpoint that it was made from")
_TENSORRT = ("a TensorRT engine", _ONNX[1])
_HEADS = {  # first bytes of other files → what they are, and the cure
    b"\x89HDF": _HDF5, b"ftrt": _TENSORRT, b"ptrt": _TENSORRT, b"<!DOCTYPE": _PAGE,
    b"<!doctype": _PAGE, b"<html": _PAGE, b"\x1f\x8b": _UNPACK, b"BZh": _UNPACK, b"Rar!": _UNPACK,
    b"\xfd7zXZ": _UNPACK, b"7z\xbc\xaf": _UNPACK, b"\x28\xb5\x2f\xfd": _UNPACK,
    b"\x93NUMPY": ("an .npy of NumPy's", "save its arrays under their names with numpy.savez"),
    b"version https://git-lfs": ("a Git LFS pointer", "run git lfs pull"),
}
_ENTRIES = {  # end of an entry's name in other zips → what they are, and the cure
    "/constants.pkl": ("TorchScript", "save torch.jit.load(file).state_dict() with torch.save"),
    "serialized_exported_program.json": (
        "a program of torch.export", "save torch.export.load(file).state_dict with torch.save"),
    "model.weights.h5": _HDF5, **dict.fromkeys((*SUFFIXES, ".ckpt", ".bin"), _UNPACK),
}
_NAMES = {  # end of other files' names → what they are, and the cure
    ".safetensors": _SAFETENSORS, ".onnx": _ONNX, ".engine": _TENSORRT, ".trt": _TENSORRT,
    ".plan": _TENSORRT, ".tflite": ("TensorFlow Lite", _ONNX[1]), ".pb": ("TensorFlow", _HDF5[1]),
    ".h5": _HDF5, ".keras": _HDF5,
}


def is_torch_file(path: str | Path) -> bool:
    """True for a file of PyTorch's or Jittor's: by its content, else by its name.

    Raises:
        UserError: the file is of a format that is not read; names it and a cure.
    """
    path = Path(path)
    by_name = path.name.endswith(_READ_SUFFIXES)
    if not path.is_file():  # a pipe would be waited for
        return by_name
    with open(path, "rb") as file:
        head = file.read(512)
    entries = []
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as file:  # damaged: raises anything
        entries = file.namelist()
    if entries:
        torch = any(name.endswith("data.pkl") for name in entries)
    else:
        torch = head[:1] == b"\x80" and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL or by_name

    found = [what for start, what in _HEADS.items() if head.startswith(start)]
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        found.append(_SAFETENSORS)
    elif head[257:262] == b"ustar":
        found.append(_UNPACK)
    elif re.match(rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        found.append(_ONNX)  # field 1, its version, then another field
    found += [what for end, what in _ENTRIES.items() for name in entries if name.endswith(end)]
    if not torch:
        found += [what for end, what in _NAMES.items() if path.name.lower().endswith(end)]
    if found:
        raise UserError(f"{path}: {found[0][0]}, which is not read; {found[0][1]}")
    return torch


def check_size(path: str | Path, size: int) -> None:
    """Raises a UserError if a file would take more memory than any checkpoint."""
    if size > LARGEST:
        raise UserError(f"{path}: would take {size / 1e9:.1f} GB of memory, so it is no checkpoint "
                        "of these networks; take another file")


def read_torch_file(path: str | Path) -> Any:
    """What `torch.save` or `jittor.save` wrote, tensors as NumPy arrays (bfloat16 as float32).

    Tensors that share a storage share memory here as well. Parameters become arrays, an OrderedDict
    a dict, numbers of NumPy become Python's, devices and dtypes strings, NumPy's arrays
    `unpickle.Late`, and objects of other classes `unpickle.StandIn`.

    Raises:
        UserError: the file is missing, damaged, of another format, asks for a call of a function,
            or is larger than any checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    check_size(path, path.stat().st_size)
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_pickles(path.read_bytes())
    except Refused as refused:
        raise UserError(
            f"{path}: refused, it holds {refused}; only tensors, numbers, strings and containers "
            "are read, so save the state_dict alone"
        ) from None
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        reason = f" ({error})" if isinstance(error, _Damaged) else ""
        raise UserError(f"{path}: not a file of PyTorch or Jittor, or damaged{reason}; copy or "
                        "download it anew") from error


def write_torch_file(path: str | Path, content: Any) -> None:
    """Writes what `torch.load(path, weights_only=True)` of PyTorch 1.6 and later reads, atomically.

    Args:
        path: of the file.
        content: nested dicts, lists and tuples of strings, numbers and arrays, which become
            tensors.
    """
    stream = io.BytesIO()
    writer = _Writer(stream)
    writer.dump(content)
    # Entries without a time: equal weights make equal files.
    entries = {"data.pkl": stream.getvalue(), "byteorder": b"little", "version": b"3\n"}
    entries.update({f"data/{key}": array.tobytes() for key, array in enumerate(writer.arrays)})
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, data in entries.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


# ---------------------------------------------------------------------------------------- reading


class _Damaged(Exception):
    """Says what shows that a file is damaged."""


def _read_zip(path):
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        # Nothing is compressed, so all entries together are no larger than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
            entry.file_size for entry in entries
        ) > path.stat().st_size:
            raise Refused("compressed or overlapping entries, which PyTorch does not write")
        (code,) = (entry.filename for entry in entries if entry.filename.endswith("data.pkl"))
        folder = code[: -len("data.pkl")]
        if f"{folder}byteorder" in file.namelist():
            check(file.read(f"{folder}byteorder") == b"little", "big-endian numbers")
        return unpickle(io.BytesIO(file.read(code)), lambda key, *_: file.read(
            f"{folder}data/{key}"))


def _read_pickles(data):
    """A file of Jittor, of PyTorch before 1.6, or a pickle."""
    if data.endswith(_JITTOR_TAIL):
        data, checksum = data[:-28], data[-28:-8]
        if hashlib.sha1(data).digest() != checksum:
            raise _Damaged("its SHA-1 checksum does not match")
    stream = io.BytesIO(data)
    content = unpickle(stream, read_bytes=_read_pickles)
    if isinstance(content, int) and content == _LEGACY_MAGIC:
        return _read_legacy(stream)
    if stream.tell() != len(data):
        raise _Damaged("bytes follow after its end")
    return content


def _read_legacy(stream):
    """Reads what follows the magic number: version, system, content, storage keys, storages."""
    if unpickle(stream) != 1001:
        raise ValueError("another version")
    check(unpickle(stream)["little_endian"], "big-endian numbers")
    start, claims, data = stream.tell(), {}, {}
    # Only the content tells the length of each storage, so the content is read twice.
    unpickle(stream, lambda key, *claim: claims.update({key: claim}))
    for key in unpickle(stream):
        dtype, size = claims[key]
        if struct.unpack("<q", stream.read(8)) != (size,):
            raise ValueError("storages of other sizes than claimed")
        data[key] = stream.read(size * dtype.itemsize)
    stream.seek(start)
    return unpickle(stream, lambda key, *_: data[key])


# ---------------------------------------------------------------------------------------- writing


class _Name(str):
    """A name in PyTorch as a pickle spells it: the module, a line end, the name in it."""

    def __call__(self):
        """Is never called: the pickler only asks whether it is callable."""
        raise TypeError(self)


class _Reference(tuple):
    """The reference to a storage in a pickle."""


class _Writer(pickle._Pickler):
    """A pickler that writes arrays as tensors, without PyTorch; `arrays` are their storages."""

    dispatch = {**pickle._Pickler.dispatch,
                _Name: lambda self, name: self.write(f"c{name}\n".encode())}

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, protocol=2)
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> tuple | None:
        return tuple(value) if isinstance(value, _Reference) else None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, (np.ndarray, np.generic)):
            return NotImplemented
        array = np.asarray(value, order="C")
        kinds = {np.dtype(code): name for name, code in STORAGES.items()}
        if array.dtype not in kinds or array.dtype == BFLOAT16:
            raise TypeError(f"no PyTorch storage for {array.dtype}")
        storage = _Reference(("storage", _Name(f"torch\n{kinds[array.dtype]}"),
                              str(len(self.arrays)), "cpu", array.size))
        self.arrays.append(array)
        strides = tuple(n // array.itemsize for n in array.strides)
        return (_Name("torch._utils\n_rebuild_tensor_v2"),
                (storage, 0, array.shape, strides, False, OrderedDict()))
