"""PyTorch's files of weights (.pth, .pth.tar, .pt), read and written without PyTorch.

Such a file is a pickle, and a pickle may call any function. Here none is unpickled: a small machine
goes through its opcodes, knows those that make tensors, numbers, strings and containers, and
refuses all else by name. It imports nothing and looks up no attribute of anything. What it makes
takes no more memory than a small multiple of the file's size, whatever the file claims.

Both formats of `torch.save` are read: the zip of PyTorch 1.6 and later, and the one before.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import atomic_path

SUFFIXES = (".pth", ".pth.tar", ".pt")
_LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled

_DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "<u2",  # the upper half of a float32; no other storage has this type
}
_BFLOAT16 = np.dtype("<u2")


def is_torch_file(path: str | Path) -> bool:
    """Whether a file is one of PyTorch's: by its content, else by its name."""
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        return path.name.endswith(SUFFIXES)
    if zipfile.is_zipfile(path):
        # Of a damaged one anything can be raised.
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as file:
            return any(name.endswith("/data.pkl") for name in file.namelist())
    else:
        with open(path, "rb") as file:
            if file.read(len(_LEGACY_HEAD)) == _LEGACY_HEAD:
                return True
    return path.name.endswith(SUFFIXES)


def read_torch_file(path: str | Path) -> Any:
    """What `torch.save` wrote, tensors as read-only NumPy arrays (bfloat16 as float32).

    Tensors that share a storage share memory here as well. Parameters become arrays, an OrderedDict
    a dict, numbers of NumPy become Python's, devices and dtypes strings.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _Refused as refused:
        raise UserError(
            f"{path}: refused, it holds {refused}; only tensors, numbers, strings and containers "
            "are read, so save the state_dict alone"
        ) from None
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise UserError(
            f"{path}: not a file of PyTorch, or damaged; copy or download it anew"
        ) from error


def find_state_dict(content: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The weights in what `read_torch_file` returned.

    Args:
        content: a state_dict, or a dict that holds one at any depth, under any key, with or without
            the `module.` of DataParallel.
        names: those of the network's parameters. Of several dicts with arrays the one that has most
            of them is taken, of equal ones that called `state_dict`.

    Returns:
        Name → array; empty if there are no named arrays.
    """
    found, queue, seen = [{}], [content], set()
    for item in queue:  # which grows meanwhile
        if not isinstance(item, dict) or id(item) in seen:
            continue
        seen.add(id(item))
        queue += [item[key] for key in sorted(item, key=lambda key: key != "state_dict")]
        arrays = {name: array for name, array in item.items()
                  if isinstance(name, str) and isinstance(array, np.ndarray)}
        if all(name.startswith("module.") for name in arrays):
            arrays = {name[len("module."):]: array for name, array in arrays.items()}
        found.append(arrays)
    return max(found, key=lambda arrays: (len(arrays.keys() & set(names)), len(arrays)))


def write_torch_file(path: str | Path, content: Any) -> None:
    """Writes what `torch.load(path, weights_only=True)` of PyTorch 1.6 and later reads, atomically.

    Args:
        path: of the file.
        content: nested dicts, lists and tuples of strings, numbers and arrays, which become
            tensors. Dicts become OrderedDicts, as state_dicts are.
    """
    storages = []
    code = b"\x80\x02" + _pickle(content, storages) + b"."
    # The archive has no time of its own: equal weights make equal files.
    entries = {"data.pkl": code, "byteorder": b"little", "version": b"3\n"}
    entries.update({f"data/{key}": array.tobytes() for key, array in enumerate(storages)})
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, data in entries.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


# ---------------------------------------------------------------------------------------- reading


class _Refused(Exception):
    """What a file holds and shall not."""


class _Storage(NamedTuple):
    """The numbers that tensors are views of; `data` is None where they are not read yet."""

    data: bytes | None
    dtype: np.dtype
    size: int


def _read_zip(path):
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        # torch.save compresses nothing, so all entries together are no larger than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
            entry.file_size for entry in entries
        ) > path.stat().st_size:
            raise _Refused("compressed or overlapping entries, which PyTorch does not write")
        (code,) = (entry.filename for entry in entries if entry.filename.endswith("/data.pkl"))
        folder = code[: -len("data.pkl")]
        if f"{folder}byteorder" in file.namelist():
            _check(file.read(f"{folder}byteorder") == b"little", "big-endian numbers")
        read = _storages(lambda key, dtype, size: file.read(f"{folder}data/{key}"))
        return _interpret(io.BytesIO(file.read(code)), read)


def _read_legacy(path):
    """Magic number, version, system, content, keys of the storages: five pickles. The storages."""
    stream = io.BytesIO(path.read_bytes())
    if stream.read(len(_LEGACY_HEAD)) != _LEGACY_HEAD or _interpret(stream) != 1001:
        raise ValueError("another format")
    _check(_interpret(stream)["little_endian"], "big-endian numbers")
    start, claims, data = stream.tell(), {}, {}
    # How long a storage is stands in the content before it: that is gone through twice.
    _interpret(stream, _storages(lambda key, *claim: claims.update({key: claim})))
    for key in _interpret(stream):
        dtype, size = claims[key]
        if struct.unpack("<q", stream.read(8)) != (size,):
            raise ValueError("storages of other sizes than claimed")
        data[key] = stream.read(size * dtype.itemsize)
    stream.seek(start)
    return _interpret(stream, _storages(lambda key, *_: data[key]))


def _storages(read):
    """A pickle's reference → its _Storage; `read(key, type, size)` returns the bytes, once."""
    known = {}

    def load(reference):
        _check(isinstance(reference, tuple) and len(reference) in (5, 6)
               and reference[0] == "storage" and reference[5:] in ((), (None,)),
               "a reference to other things than storages")
        _, dtype, key, _, size = reference[:5]
        _check(isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(size, int)
               and size >= 0, "a storage of unknown kind")
        if (key, dtype) not in known:
            data = read(key, dtype, size)
            if data is not None and len(data) != size * dtype.itemsize:
                raise ValueError("a storage of another size than claimed")
            kept = dtype
            if data is not None and dtype == _BFLOAT16:
                data = np.left_shift(np.frombuffer(data, dtype), 16, dtype="<u4").tobytes()
                kept = np.dtype("<f4")
            known[key, dtype] = _Storage(data, kept, size)
        _check(known[key, dtype].size == size, "a storage of two sizes")
        return known[key, dtype]

    return load


def _check(fine, what):
    if not fine:
        raise _Refused(what)


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    _check(isinstance(storage, _Storage) and not metadata and isinstance(size, tuple)
           and isinstance(stride, tuple) and len(size) == len(stride) <= 32
           and all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)),
           "a tensor of unknown kind")
    count = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if count else offset
    # A tensor with more elements than its storage (expanded) could exhaust the memory.
    _check(end <= storage.size and count <= storage.size, "a tensor larger than its storage")
    if storage.data is None:
        return None
    if not count:
        return np.empty(size, storage.dtype)
    step = storage.dtype.itemsize
    return np.ndarray(size, storage.dtype, storage.data, offset * step, [n * step for n in stride])


def _parameter(tensor, requires_grad, hooks):
    return tensor


def _ordered_dict():
    return {}


def _torch_size(size):
    _check(isinstance(size, tuple), "a size of unknown kind")
    return size


def _device(kind, index=None):
    return kind


def _numpy_dtype(code, align=False, copy=True):
    _check(isinstance(code, str) and re.fullmatch("b1|[iu][1248]|f[248]", code),
           f"NumPy's type {_shown(code)}")
    return np.dtype(code).newbyteorder("<")


def _numpy_number(dtype, data):
    _check(isinstance(dtype, np.dtype) and isinstance(data, bytes) and len(data) == dtype.itemsize,
           "a NumPy number of unknown kind")
    return np.frombuffer(data, dtype)[0].item()


def _encode(text, encoding):
    """How pickles of protocol 2 spell bytes; those of a number are few."""
    _check(isinstance(text, str) and len(text) <= 8 and encoding == "latin1", "encoded text")
    return text.encode("latin1")


# All that a pickle may name. None of these copies what may be long: a pickle can call them a
# million times on one argument.
_GLOBALS = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _torch_size,
    "torch.device": _device,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
    "_codecs.encode": _encode,
    **{f"torch.{name}": np.dtype(code) for name, code in _DTYPES.items()},
    **{f"torch.{name}": name for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool")},
}

_ARGUMENTS = {  # opcodes that push what they carry
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(stream, load_storage=None):
    """The object that a pickle describes; the stream is left behind it."""
    stack, marks, memo = [], [], {}

    def take(count=None):
        """The last `count` items, or those since the mark."""
        start = marks.pop() if count is None else len(stack) - count
        if not 0 <= start <= len(stack):
            raise ValueError("too few items")
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE" or name in _TUPLES:
            stack.append(tuple(take(_TUPLES.get(name))))
        elif name in ("SETITEM", "SETITEMS"):
            items = take(2 if name == "SETITEM" else None)
            for key, value in zip(items[::2], items[1::2]):
                # Tuples of tuples of … take for ever to hash.
                _check(isinstance(key, (str, int, float, bytes)) and isinstance(stack[-1], dict),
                       f"a {type(stack[-1]).__name__} with keys of type {type(key).__name__}")
                stack[-1][key] = value
        elif name in ("APPEND", "APPENDS"):
            items = take(1 if name == "APPEND" else None)
            _check(isinstance(stack[-1], list), f"a {type(stack[-1]).__name__} to append to")
            stack[-1].extend(items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = argument.split(" ") if name == "GLOBAL" else take(2)
            full_name = ".".join(map(str, words))
            _check(full_name in _GLOBALS, _shown(full_name))
            stack.append(_GLOBALS[full_name])
        elif name == "REDUCE":
            function, arguments = take(2)
            _check(callable(function) and isinstance(arguments, tuple), "a call of a value")
            stack.append(function(*arguments))
        elif name == "BUILD":
            (state,) = take(1)
            if isinstance(stack[-1], np.dtype):
                _check(isinstance(state, tuple) and state[1] in ("<", "|"), "big-endian numbers")
            else:  # the versions that PyTorch writes beside a state_dict say nothing of the weights
                _check(isinstance(stack[-1], dict) and isinstance(state, dict), "an object's state")
        elif name == "BINPERSID":
            _check(load_storage, "a reference in a strange place")
            stack.append(load_storage(stack.pop()))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"the pickle opcode {name} {_shown(argument or '')}".rstrip())


def _shown(name):
    """A name from a file as a part of one line, whatever it holds."""
    return ascii(name)[:80].strip("'\"")


# ---------------------------------------------------------------------------------------- writing


def _pickle(value, storages):
    """The opcodes (protocol 2) of a value; arrays are appended to `storages`."""
    def joined(values):
        return b"(" + b"".join(_pickle(each, storages) for each in values)

    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, tuple):
        return joined(value) + b"t"
    if isinstance(value, list):
        return b"]" + joined(value) + b"e"
    if isinstance(value, dict):
        return _global("collections", "OrderedDict") + b")R" + joined(
            each for item in value.items() for each in item) + b"u"
    array = np.ascontiguousarray(value).reshape(np.shape(value))  # the former makes 0-d 1-d
    kinds = {np.dtype(code): name for name, code in _DTYPES.items()}
    kind = kinds.get(array.dtype) if array.dtype != _BFLOAT16 else None
    if kind is None:
        raise TypeError(f"no PyTorch storage for {array.dtype} ({type(value).__name__})")
    storages.append(array)
    strides = tuple(n // array.itemsize for n in array.strides)
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + b"((" + _pickle("storage", storages) + _global("torch", kind)
        + joined([str(len(storages) - 1), "cpu", array.size])[1:] + b"tQ"
        + joined([0, array.shape, strides, False, {}])[1:] + b"tR"
    )


def _global(module, name):
    return f"c{module}\n{name}\n".encode()
