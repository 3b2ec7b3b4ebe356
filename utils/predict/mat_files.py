"""Arrays of real numbers in MATLAB's files, read by SciPy once their headers have been looked at.

SciPy unpacks whatever a file claims, and ends the whole interpreter on cells nested a thousand
deep and on an unknown type of numbers. So the one array that is wanted is read, after a look at its
kind, size and type of numbers.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat, whosmat

_HEAD = 128  # bytes before the first element of a MATLAB 5 file
_PACKED = 15  # the type of a compressed element
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)  # the types of numbers, int8 to uint64
_COMPLEX = 0x800  # among the flags of an array
_HEADER = 2**16  # bytes in which an array's header stands
_KINDS = {"double": "f8", "single": "f4", "logical": "?",
          **{name: name for size in (8, 16, 32, 64) for name in (f"int{size}", f"uint{size}")}}


class Matrix(NamedTuple):
    """An array of a file, as its header describes it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def real(self) -> bool:
        """Whether it holds numbers."""
        return self.kind in _KINDS

    def array(self) -> np.ndarray:
        """Its numbers in the type of its kind, in whatever smaller one they are stored.

        Raises:
            Exception: of nearly any kind, the file is damaged.
        """
        data = self.path.read_bytes()
        modern = 0 not in data[:4]  # MATLAB 5
        for name, flags, code in _headers(data) if modern else ():
            if name == self.name.encode("latin1") and flags & _COMPLEX:
                raise ValueError("complex numbers")
            if name == self.name.encode("latin1") and code not in _NUMBERS:
                raise ValueError(f"numbers of the unknown type {code}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two arrays of one name the last is taken
            array = loadmat(self.path, variable_names=[self.name])[self.name]
        if not modern:
            return array
        return array != 0 if self.kind == "logical" else array.astype(
            _KINDS[self.kind], casting="same_kind")


def matrices(path: Path) -> dict[str, Matrix]:
    """The arrays of a file, by name.

    Raises:
        NotImplementedError: a MATLAB 7.3 file.
        Exception: of nearly any kind, the file is damaged.
    """
    return {name: Matrix(path, name, shape, kind) for name, shape, kind in whosmat(path)
            if not name.startswith("__")}


def _headers(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, flags and type of the numbers of each array in a MATLAB 5 file."""
    order = "<" if data[126:128] == b"IM" else ">"
    end = _HEAD
    while end < len(data):
        code, start, size, _ = _element(data, end, order)
        end = start + size
        inside, place = data[start:end], 0
        if code == _PACKED:
            inside = zlib.decompressobj().decompress(inside, _HEADER)
            _, place, _, _ = _element(inside, 0, order)
        if inside[place:]:
            _, flags, _, place = _element(inside, place, order)
            _, _, _, place = _element(inside, place, order)  # the sizes
            _, start, size, place = _element(inside, place, order)
            yield (inside[start : start + size], *struct.unpack_from(f"{order}I", inside, flags),
                   _element(inside, place, order)[0] if len(inside) > place else 0)


def _element(data, place, order):
    """Type, start, bytes of an element's content, and where the next element begins."""
    code, size = struct.unpack_from(f"{order}II", data, place)
    if code >> 16:  # a small one: both in one word, and the content in the next
        return code & 0xFFFF, place + 4, min(code >> 16, 4), place + 8
    return code, place + 8, size, place + 8 + size + -size % 8
