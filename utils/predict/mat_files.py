"""Arrays of MATLAB 5 files (save -v6, -v7, and what SciPy writes).

SciPy's own reader ends the whole interpreter on a damaged type of number and on cells nested a
thousand deep, and unpacks whatever a file claims. Here the header of an array comes first, and only
arrays of real numbers are unpacked.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEAD = 128  # bytes before the first element
_MATRIX, _PACKED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}
_KINDS = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single",
          8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
          15: "uint64"}
_LOGICAL, _COMPLEX = 0x200, 0x800  # flags of an array
_HEADER = 2**16  # bytes in which an array's name and size stand


class Matrix(NamedTuple):
    """An array as its header describes it; `start` is where its numbers begin in `data`."""

    name: str
    shape: tuple[int, ...]
    kind: str
    logical: bool
    order: str
    data: bytes
    packed: bytes
    start: int

    @property
    def real(self) -> bool:
        """Whether it holds real numbers."""
        return self.kind in list(_KINDS.values())[5:]

    def array(self) -> np.ndarray:
        """Its numbers in the type of its kind, in whatever smaller one they are stored; or bool.

        Raises:
            TypeError, ValueError, zlib.error: the file is damaged.
        """
        data = self.data
        if self.packed:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(self.packed, self.start + 8 * math.prod(self.shape) + 64)
            if not unpacker.eof:  # where the checksum stands
                raise ValueError("it is cut off, or longer than its header says")
        code, start, size, _ = _element(data, self.start, self.order)
        if code not in _NUMBERS:
            raise ValueError(f"numbers of the unknown type {code}")
        kind = np.dtype(self.order + _NUMBERS[code])
        if size != kind.itemsize * math.prod(self.shape) or start + size > len(data):
            raise ValueError("it does not hold as many numbers as its header says")
        array = np.frombuffer(data, kind, math.prod(self.shape), start)
        array = array.astype(bool) if self.logical else array.astype(self.kind, casting="same_kind")
        return array.reshape(self.shape, order="F")


def is_mat5(data: bytes) -> bool:
    """Whether a file that begins so is one of MATLAB 5."""
    return data[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def matrices(data: bytes) -> Iterator[Matrix]:
    """The arrays of a MATLAB 5 file, by their headers.

    Raises:
        ValueError, struct.error, zlib.error: the file is damaged.
    """
    order = "<" if data[126:128] == b"IM" else ">"
    place = HEAD
    while place < len(data):
        code, start, size, place = _element(data, place, order)
        if start + size > len(data):
            raise ValueError("it is cut off")
        inside, packed = data[start : start + size], b""
        if code == _PACKED:
            place = start + size  # these are not padded
            packed, inside = inside, zlib.decompressobj().decompress(inside, _HEADER)
            code, start, size, _ = _element(inside, 0, order)
        else:
            start = 0
        if code != _MATRIX:
            raise ValueError(f"an element of the unknown type {code}")
        if size:
            yield _matrix(inside, packed, start, order)


def _matrix(data, packed, place, order):
    code, start, size, place = _element(data, place, order)
    if (code, size) != (6, 8):
        raise ValueError("an array without flags")
    (flags,) = struct.unpack_from(f"{order}I", data, start)
    code, start, size, place = _element(data, place, order)
    if code != 5 or size % 4 or not 8 <= size <= 128:
        raise ValueError("an array without sizes")
    shape = struct.unpack_from(f"{order}{size // 4}i", data, start)
    code, start, size, place = _element(data, place, order)
    if code not in (1, 16) or size > 256:
        raise ValueError("an array without a name")
    kind = _KINDS.get(flags & 0xFF, "thing of an unknown kind")
    return Matrix(data[start : start + size].decode("latin1"), shape,
                  f"complex {kind}" if flags & _COMPLEX else kind, bool(flags & _LOGICAL), order,
                  data, packed, place)


def _element(data, place, order):
    """Type, start, bytes of an element's content, and where the next element begins."""
    code, size = struct.unpack_from(f"{order}II", data, place)
    if code >> 16:  # a small one: both in one word, and the content in the next
        return code & 0xFFFF, place + 4, min(code >> 16, 4), place + 8
    return code, place + 8, size, place + 8 + size + -size % 8
