"""Reads an array of real numbers from a MATLAB file.

SciPy unpacks whatever a file claims, and crashes Python on cells nested a thousand deep and on an
unknown type of numbers. So it reads one array only: the caller has checked shape and class, which
`whosmat` tells without unpacking, and `read_array` checks the type of the numbers.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

REAL_CLASSES = ("double", "single", "logical",
        *(f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)))
_START = 128  # bytes before the first element of a MATLAB 5 file
_PACKED = 15  # the type of a compressed element
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)  # the types of numbers, int8 to uint64
_HEADER = 2**16  # bytes that hold the header of an array


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of a class in `REAL_CLASSES`, as MATLAB would load it.

    Raises:
        Exception: of nearly any kind, the file is damaged.
    """
    data = path.read_bytes()
    if 0 not in data[:4]:  # MATLAB 5
        for found, code in _number_types(data):
            if found == name.encode("latin1") and code not in _NUMBERS:
                raise ValueError(f"numbers of the unknown type {code}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two arrays of one name: the last is taken
        warnings.filterwarnings("error", "Casting complex values")
        return loadmat(path, variable_names=[name], mat_dtype=True)[name]


def _number_types(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The name of each array in a MATLAB 5 file, and the type of its numbers."""
    order = "<" if data[126:128] == b"IM" else ">"
    end = _START
    while end < len(data):
        code, start, size, _ = _element(data, end, order)
        end = start + size
        inside, place = data[start:end], 0
        if code == _PACKED:
            inside = zlib.decompressobj().decompress(inside, _HEADER)
            _, place, _, _ = _element(inside, 0, order)
        if inside[place:]:
            for _ in range(2):  # the flags and the sizes
                _, _, _, place = _element(inside, place, order)
            _, start, size, place = _element(inside, place, order)
            yield (inside[start : start + size],
                   _element(inside, place, order)[0] if len(inside) > place else 0)


def _element(data, place, order):
    """Type, start and size of an element's content in bytes, and the start of the next element."""
    code, size = struct.unpack_from(f"{order}II", data, place)
    if code >> 16:  # a small element: type and size in one word, then four bytes
        return code & 0xFFFF, place + 4, min(code >> 16, 4), place + 8
    return code, place + 8, size, place + 8 + size + -size % 8
