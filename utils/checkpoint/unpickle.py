"""Reading pickles of weights without executing anything in them.

A pickle names functions and classes, and calls them. Here a name means one of the harmless
functions of this file (a closed list) or a stand-in that does nothing. So the settings, callbacks
and paths that stand beside the weights of a Lightning checkpoint are passed over, no module is
imported, and no attribute of anything is looked up. A call of any other function is refused by the
function's name.

This is Python's form of `pickle.Unpickler`, because what its opcodes do can be narrowed (joblib
does the same). The form in C asks for memory by a place in its memo, and may hash tuples of tuples
for ever.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MOST_OPCODES = 10**6  # of one pickle; the official checkpoints have 10,000
LONGEST = 500  # characters of a name
_OPCODES = frozenset(
    "BINBYTES BINBYTES8 BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINSTRING "
    "BINUNICODE BINUNICODE8 BUILD BYTEARRAY8 EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE FRAME "
    "FROZENSET GLOBAL LONG1 LONG4 LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWOBJ NEWOBJ_EX "
    "NEWTRUE NONE POP POP_MARK PROTO REDUCE SETITEM SETITEMS SHORT_BINBYTES SHORT_BINSTRING "
    "SHORT_BINUNICODE STACK_GLOBAL STOP TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS ADDITEMS".split()
)

STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "<u2",  # the upper half of a float32; no other storage has this type
}
BFLOAT16 = np.dtype("<u2")

# Modules whose functions and classes run programs or code, and functions of Python's own that do.
_DANGEROUS = frozenset(
    "asyncio code codeop commands ctypes importlib multiprocessing nt os pip posix pty runpy "
    "shutil signal socket subprocess sys threading webbrowser".split()
)
_DANGEROUS_BUILTINS = frozenset(
    "__import__ breakpoint compile eval exec execfile input open".split())
# Functions, and classes with names in lower case, whose calls may be passed over.
_HARMLESS = frozenset(
    [f"{module}.{name}" for module in ("builtins", "__builtin__") for name in (
        "bool", "bytearray", "complex", "dict", "float", "frozenset", "getattr", "int",
        "list", "long", "object", "range", "set", "slice", "str", "tuple", "type", "unicode",
        "xrange")]
    + [f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")]
    + ["collections.deque", "functools.partial"]
)


class Refused(Exception):
    """What a file holds and shall not."""


class Storage(NamedTuple):
    """The numbers that tensors are views of; `data` is None where they are not read yet."""

    data: bytes | None
    dtype: np.dtype
    size: int


class StandIn:
    """Stands for something that is not read, and does nothing."""

    def __init__(self, name: str = "", function: bool = False):
        self.name, self.function = name, function

    def __call__(self, *arguments: Any) -> StandIn:
        """What calling the original would have made, as a stand-in."""
        check(not self.function, shown(self.name))
        return StandIn(self.name)


def check(fine: object, what: str) -> None:
    """Raises Refused, with what the file holds, unless all is fine."""
    if not fine:
        raise Refused(what)


def shown(name: str) -> str:
    """A name from a file as a part of one line, whatever it holds."""
    return ascii(name)[:80].strip("'\"")


# ---------------------------------------------------------------------------------------- PyTorch


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    if isinstance(storage, StandIn):
        return StandIn("a tensor of another kind")
    check(isinstance(storage, Storage) and not metadata and isinstance(size, tuple)
          and isinstance(stride, tuple) and len(size) == len(stride) <= 32
          and all(isinstance(n, int) and 0 <= n < 2**62 for n in (offset, *size, *stride)),
          "a tensor of unknown kind")
    count = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if count else offset
    # A tensor with more elements than its storage (expanded) could exhaust the memory.
    check(end <= storage.size and count <= storage.size, "a tensor larger than its storage")
    if storage.data is None:
        return None
    if not count:
        return np.empty(size, storage.dtype)
    step = storage.dtype.itemsize
    return np.ndarray(size, storage.dtype, storage.data, offset * step, [n * step for n in stride])


def _first(value, *others):
    """A parameter is its tensor, a device its kind, a variable of Jittor its array."""
    return value


def _typed_tensor(function, kind, arguments, state):
    """A tensor with attributes of its own."""
    return _tensor(*arguments) if function is _tensor else StandIn("a tensor of another kind")


def _empty_dict(*kind):
    return {}


def _torch_size(size):
    check(isinstance(size, tuple), "a size of unknown kind")
    return size


# ------------------------------------------------------------------------------------------ NumPy


class _Dtype:
    """NumPy's type of numbers; the order of bytes comes after it is made. None: another type."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        numbers = isinstance(code, str) and re.fullmatch("b1|[iu][1248]|f[248]", code)
        self.dtype = np.dtype(code).newbyteorder("<") if numbers else None

    def restore(self, state: Any) -> None:
        if self.dtype is not None:
            check(isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="),
                  "a NumPy type of unknown kind")
            self.dtype = self.dtype.newbyteorder("<" if state[1] in "|=" else state[1])


class LateArray:
    """NumPy's array as pickled: its numbers come after it is made. None: not numbers."""

    def __init__(self, *kind: Any):
        self.array = None

    def restore(self, state: Any) -> None:
        check(isinstance(state, tuple) and len(state) >= 4, "a NumPy array of unknown kind")
        shape, dtype, fortran, data = state[-4:]
        self.array = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data, dtype, shape, order):
    """An array of these bytes, as a view; None if it is not of numbers."""
    check(isinstance(dtype, (_Dtype, StandIn)), "a NumPy array of unknown kind")
    if isinstance(dtype, StandIn) or dtype.dtype is None:
        return None
    shape = shape if isinstance(shape, tuple) else (shape,)
    check(isinstance(data, bytes) and len(shape) <= 32
          and all(isinstance(n, int) and 0 <= n < 2**62 for n in shape)
          and len(data) == math.prod(shape) * dtype.dtype.itemsize,
          "a NumPy array of another size than its numbers")
    return np.ndarray(shape, dtype.dtype, data, order=order)


def _from_buffer(data, dtype, shape, order, axis_order=None):
    """How arrays are pickled by protocol 5."""
    if axis_order is None:
        array = _array(data, dtype, shape, "F" if order == "F" else "C")
    else:  # shape is that of the numbers as they lie
        array = _array(data, dtype, shape, "C")
        array = array if array is None else array.transpose(axis_order)
    return StandIn("a NumPy array of another kind") if array is None else array


def _number(dtype, data=None):
    array = _array(data, dtype, (), "C") if isinstance(data, bytes) else None
    return StandIn("a NumPy number of another kind") if array is None else array.item()


def _bytes(*arguments):
    """How protocol 2 spells no bytes."""
    return StandIn("bytes") if arguments else b""


def _variable(value, *others):
    """A variable of Jittor, or a tensor of another device than PyTorch's own."""
    return value.array if isinstance(value, LateArray) else value


# None of these copies what may be long: a pickle can call them a million times on one argument.
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "__builtin__.bytes": _bytes,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch._utils._rebuild_device_tensor_from_numpy": _variable,
    "torch.Size": _torch_size,
    "torch.device": _first,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": StandIn("numpy.ndarray"),
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in (
        ("multiarray._reconstruct", LateArray), ("multiarray.scalar", _number),
        ("numeric._frombuffer", _from_buffer))},
    **{f"{module}.Var": _variable for module in ("jittor", "jittor_core", "jittor.jittor_core")},
    **{f"torch.{name}": np.dtype(code) for name, code in STORAGES.items()},
    **{f"torch.{name}": name for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool")},
}


# ---------------------------------------------------------------------------------------- pickles


class _Reader(pickle._Unpickler):
    """A pickle.Unpickler that knows the names above, and changes dicts and lists only."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, stream: io.BytesIO, load_storage: Callable[[Any], Any] | None,
                 load_bytes: Callable[[bytes], Any] | None):
        super().__init__(stream, encoding="latin1")
        self.load_storage, self.load_bytes = load_storage, load_bytes
        self.left = stream.getbuffer().nbytes  # bytes that may still be copied or read again

    def find_class(self, module: str, name: str) -> Any:
        check(len(module) + len(name) < LONGEST, "a name that is too long")
        full = f"{module}.{name}"
        if full == "_codecs.encode":
            return self.encode
        if full == "torch.storage._load_from_bytes" and self.load_bytes:
            return self.from_bytes
        if full in _GLOBALS:
            return _GLOBALS[full]
        check(module.split(".")[0] not in _DANGEROUS and not (
            module in ("builtins", "__builtin__") and name in _DANGEROUS_BUILTINS), shown(full))
        function = name.rpartition(".")[2][:1].islower() and full not in _HARMLESS
        return StandIn(full, function)

    def persistent_load(self, reference: Any) -> Any:
        check(self.load_storage, "a reference in a strange place")
        return self.load_storage(reference)

    def encode(self, text: Any, encoding: Any = None) -> bytes:
        """How protocol 2 spells bytes: once each, so that all are no longer than the file."""
        check(isinstance(text, str) and encoding == "latin1", "encoded text")
        self._spend(len(text))
        return text.encode("latin1")

    def from_bytes(self, data: Any) -> Any:
        """A storage as `pickle.dump` of a tensor writes it: a file in the file."""
        check(isinstance(data, bytes), "a storage of unknown kind")
        self._spend(len(data))
        return self.load_bytes(data)

    def _spend(self, count):
        self.left -= count
        check(self.left >= 0, "more bytes than the file has")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        check(callable(function) and isinstance(arguments, tuple), "a call of a value")
        check(len(arguments) < 64, "a call with too many arguments")
        self.stack.append(function(*arguments))

    def load_newobj(self) -> None:
        self._new(self.stack.pop())

    def load_newobj_ex(self) -> None:
        named = self.stack.pop()
        check(isinstance(named, dict), "a call of a value")
        self._new(self.stack.pop())

    def _new(self, arguments):
        kind = self.stack.pop()
        check(isinstance(kind, StandIn) and isinstance(arguments, tuple), "a new object of a value")
        self.stack.append(kind())

    def load_build(self) -> None:
        state = self.stack.pop()
        # The state of other things, such as an OrderedDict's versions, says nothing of weights.
        if isinstance(self.stack[-1], (_Dtype, LateArray)):
            self.stack[-1].restore(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items):
        target = self.stack[-1]
        if isinstance(target, StandIn):
            return
        check(isinstance(target, dict), f"a {type(target).__name__} with keys")
        for key, value in zip(items[::2], items[1::2]):
            check(_is_plain(key) or (isinstance(key, tuple) and len(key) <= 8
                                     and all(map(_is_plain, key))),
                  f"a dict with keys of type {type(key).__name__}")
            target[key] = value

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values):
        target = self.stack[-1]
        check(isinstance(target, (list, StandIn)), f"a {type(target).__name__} to append to")
        if isinstance(target, list):
            target.extend(values)

    def load_empty_set(self) -> None:
        self.stack.append(StandIn("set"))

    def load_additems(self) -> None:
        self.pop_mark()

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.stack.append(StandIn("frozenset"))

    def load_bytearray(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch.update({
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex, pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
        pickle.APPEND[0]: load_append, pickle.APPENDS[0]: load_appends,
        pickle.EMPTY_SET[0]: load_empty_set, pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset, pickle.BYTEARRAY8[0]: load_bytearray,
    })


def _is_plain(key):
    """Whether it is hashed at once: tuples of tuples of … and long integers are not."""
    return isinstance(key, (str, bytes, float, StandIn, type(None))) or (
        isinstance(key, int) and abs(key) < 2**60)


def unpickle(
    stream: io.BytesIO, load_storage: Callable[[Any], Any] | None = None,
    load_bytes: Callable[[bytes], Any] | None = None,
) -> Any:
    """The object that a pickle describes; the stream is left behind the pickle.

    Args:
        stream: the file, or the part of it that holds pickles.
        load_storage: takes a persistent reference and returns its `Storage`; None refuses them.
        load_bytes: takes a file in the file and returns its content.

    Raises:
        Refused: the pickle holds what is not read.
        Exception: of nearly any kind, the pickle is damaged.
    """
    start = stream.tell()
    # First all lengths and opcodes are looked at: a length that lies asks for no memory then.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in _OPCODES:
            raise Refused(f"the pickle opcode {opcode.name} {shown(argument or '')}".rstrip())
        check(count < MOST_OPCODES, "more opcodes than a checkpoint of these networks")
    stream.seek(start)
    return _Reader(stream, load_storage, load_bytes).load()
