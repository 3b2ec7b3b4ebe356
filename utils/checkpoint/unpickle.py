"""Reading pickles of weights without executing anything in them.

A pickle names functions and classes, and calls them. Here a name becomes a harmless function of
this file (`_GLOBALS`, a closed list) or a stand-in that does nothing. So no module is imported and
no attribute is looked up; settings, callbacks and paths in a Lightning checkpoint are ignored. A
call of any other function is refused, and the error names the function.

`_Reader` extends the unpickler that is written in Python, because its opcodes can be overridden
(joblib does so too). The one in C allocates memory for any memo index that a file claims, and
hashes keys of any type.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any, Callable, NamedTuple

import numpy as np

MOST_OPCODES = 10**6  # of one pickle; the official checkpoints have 10,000
LONGEST = 500  # characters of a name
MOST_ARGUMENTS = 64
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
ReadStorage = Callable[[Any, np.dtype, int], "bytes | None"]

# Modules whose classes run programs or code: even their names are refused.
_DANGEROUS = frozenset(
    "asyncio code codeop commands ctypes importlib multiprocessing nt os pip posix pty runpy "
    "shutil signal socket subprocess sys threading webbrowser".split()
)
# Functions, and classes with names in lower case, whose calls are passed over.
_HARMLESS = frozenset(
    [f"{module}.{name}" for module in ("builtins", "__builtin__") for name in (
        "bool", "bytearray", "complex", "dict", "float", "frozenset", "getattr", "int",
        "list", "long", "object", "range", "set", "slice", "str", "tuple", "type", "unicode",
        "xrange")]
    + [f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")]
    + ["collections.deque", "functools.partial"]
)


class Refused(Exception):
    """Says what forbidden thing a file holds."""


class Storage(NamedTuple):
    """The numbers that tensors are views of; `data` is None before they are read."""

    data: bytes | None
    dtype: np.dtype
    size: int


class StandIn:
    """Stands for a class, a function or an object that is not read, and does nothing."""

    def __init__(self, name: str = "", function: bool = False):
        self.name, self.function = name, function

    def __call__(self, *arguments: Any) -> StandIn:
        """Returns a stand-in for the new object; a function is refused."""
        check(not self.function, shown(self.name))
        return StandIn(self.name)

    def append(self, *items: Any) -> None:
        """Keeps nothing."""

    extend = add = append


class Late:
    """A NumPy array or dtype, which a pickle creates empty and describes later.

    Attributes:
        array: the array; None if its numbers are not real.
        dtype: the dtype; None for an array, or if its numbers are not real.
    """

    def __init__(self, dtype: np.dtype | None = None):
        self.array, self.dtype = None, dtype

    def describe(self, state: Any) -> None:
        """Applies the state that a pickle gives to the array or dtype."""
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder("<><<"["<>=|".index(state[1])])
        elif len(state) in (4, 5) and isinstance(state[-4], tuple):  # an array's, not a type's
            shape, dtype, fortran, data = state[-4:]
            self.array = _array(data, dtype, shape, "F" if fortran else "C")


def check(fine: object, what: str) -> None:
    """Raises Refused(what the file holds) unless `fine` is true."""
    if not fine:
        raise Refused(what)


def shown(name: Any) -> str:
    """A name from a file in printable ASCII, at most 80 characters."""
    return ascii(str(name)[:80])[1:-1][:80]


def _first(value, *others):
    """Returns a parameter's tensor, a device's kind, or the array of a Jittor variable."""
    return value


def _empty_dict(*kind):
    return {}


def _are_sizes(numbers):
    return isinstance(numbers, tuple) and len(numbers) <= 32 and all(
        isinstance(n, int) and 0 <= n < 2**62 for n in numbers)


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    if isinstance(storage, StandIn):
        return StandIn("a tensor of another kind")
    check(isinstance(storage, Storage) and not metadata and _are_sizes(size) and _are_sizes(stride)
          and _are_sizes((offset,)) and len(size) == len(stride), "a tensor of unknown kind")
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


def _typed_tensor(function, kind, arguments, state):
    """A tensor with attributes of its own."""
    return _tensor(*arguments) if function is _tensor else StandIn("a tensor of another kind")


def _dtype(code, *options):
    numbers = isinstance(code, str) and re.fullmatch("b1|[iu][1248]|f[248]", code)
    return Late(np.dtype(code).newbyteorder("<")) if numbers else StandIn("numpy.dtype")


def _array(data, dtype, shape, order):
    """An array as a view of these bytes; None if it is not of real numbers."""
    if not isinstance(dtype, Late) or dtype.dtype is None:
        return None
    shape = shape if isinstance(shape, tuple) else (shape,)
    check(isinstance(data, (bytes, bytearray)) and _are_sizes(shape)
          and len(data) == math.prod(shape) * dtype.dtype.itemsize,
          "a NumPy array of another size than its numbers")
    return np.ndarray(shape, dtype.dtype, data, order=order)


def _late_array(*kind):
    return Late()


def _from_buffer(data, dtype, shape, order, axis_order=None):
    """Protocol 5's form of an array; with `axis_order`, `shape` is the shape before transposing."""
    made = Late()
    made.array = _array(data, dtype, shape, "F" if order == "F" else "C")
    if axis_order is not None and made.array is not None:
        made.array = made.array.transpose(axis_order)
    return made


def _number(dtype, data=None):
    array = _array(data, dtype, (), "C")
    return StandIn("a NumPy number of another kind") if array is None else array.item()


# None of these copies long arguments: a pickle can call them a million times on one argument.
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _empty_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch.Size": _first,
    "torch.device": _first,
    "numpy.dtype": _dtype,
    "numpy.ndarray": StandIn("numpy.ndarray"),
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in (
        ("multiarray._reconstruct", _late_array), ("multiarray.scalar", _number),
        ("numeric._frombuffer", _from_buffer))},
    **{f"{module}.Var": _first for module in ("jittor", "jittor_core", "jittor.jittor_core")},
    **{f"torch.{name}": np.dtype(code) for name, code in STORAGES.items()},
    **{f"torch.{name}": name for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool")},
}


class _Reader(pickle._Unpickler):
    """A pickle.Unpickler that knows the names above, and changes dicts and lists only."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, stream: io.BytesIO, read_storage: ReadStorage | None,
                 read_bytes: Callable[[bytes], Any] | None):
        super().__init__(stream, encoding="latin1")
        self.read_storage, self.read_bytes = read_storage, read_bytes
        self.known: dict[Any, Any] = {}  # results by storage, text or bytes: each is made once

    def find_class(self, module: str, name: str) -> Any:
        check(len(module) + len(name) < LONGEST, "a name that is too long")
        full = f"{module}.{name}"
        if full in ("_codecs.encode", "__builtin__.bytes"):
            return self.encode
        if full == "torch.storage._load_from_bytes" and self.read_bytes:
            return self.file_in_file
        if full in _GLOBALS:
            return _GLOBALS[full]
        function = name.rpartition(".")[2][:1].islower() and full not in _HARMLESS
        check(module.split(".")[0] not in _DANGEROUS and not (
            function and module in ("builtins", "__builtin__")), shown(full))
        return StandIn(full, function)

    def persistent_load(self, reference: Any) -> Storage | StandIn:
        """The storage of a tensor, by ("storage", type, key, device, size)."""
        check(self.read_storage, "a reference in a strange place")
        if isinstance(reference, tuple) and reference[:1] == ("module",):
            return StandIn("torch.nn.Module")  # the class of a network saved as a whole
        check(isinstance(reference, tuple) and len(reference) in (5, 6)
              and reference[0] == "storage" and reference[5:] in ((), (None,)),
              "a reference to other things than storages")
        _, dtype, key, _, size = reference[:5]
        if isinstance(dtype, StandIn):
            return dtype
        check(isinstance(dtype, np.dtype) and isinstance(key, (str, int))
              and isinstance(size, int) and size >= 0, "a storage of unknown kind")
        storage = self._once((key, dtype), lambda: self._storage(key, dtype, size))
        check(storage.size == size, "a storage of two sizes")
        return storage

    def _storage(self, key, dtype, size):
        data = self.read_storage(key, dtype, size)
        if data is None:
            return Storage(None, dtype, size)
        if len(data) != size * dtype.itemsize:
            raise ValueError("a storage of another size than claimed")
        if dtype == BFLOAT16:
            data = np.left_shift(np.frombuffer(data, dtype), 16, dtype="<u4").tobytes()
            dtype = np.dtype("<f4")
        return Storage(data, dtype, size)

    def encode(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        """Bytes as protocol 2 writes them: encoded text."""
        check(isinstance(text, str) and encoding == "latin1", "encoded text")
        return self._once(text, lambda: text.encode("latin1"))

    def file_in_file(self, data: Any) -> Any:
        """A storage as `pickle.dump` of a tensor writes it: a whole file in bytes."""
        check(isinstance(data, bytes), "a storage of unknown kind")
        return self._once(data, lambda: self.read_bytes(data))

    def _once(self, key, make):
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def load_reduce(self) -> None:
        """Calls a function or class; also serves NEWOBJ, which makes an object of a class."""
        arguments, function = self.stack.pop(), self.stack.pop()
        check(callable(function) and isinstance(arguments, tuple), "a call of a value")
        check(len(arguments) <= MOST_ARGUMENTS, "a call with too many arguments")
        self.stack.append(function(*arguments))

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # arguments by name
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        # The state of other objects, such as an OrderedDict's versions, holds no weights.
        if isinstance(self.stack[-1], Late):
            self.stack[-1].describe(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items):
        target = self.stack[-1]
        check(isinstance(target, (dict, StandIn)), f"a {type(target).__name__} with keys")
        for key, value in zip(items[::2], items[1::2]):
            # Other keys are no names of weights, and tuples of tuples of … are hashed for ever.
            if isinstance(target, dict) and isinstance(key, (str, int)):
                target[key] = value

    def load_empty_set(self) -> None:
        self.stack.append(StandIn("set"))

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.stack.append(StandIn("frozenset"))

    dispatch.update({
        pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex, pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
        pickle.EMPTY_SET[0]: load_empty_set, pickle.FROZENSET[0]: load_frozenset,
    })


def unpickle(
    stream: io.BytesIO, read_storage: ReadStorage | None = None,
    read_bytes: Callable[[bytes], Any] | None = None,
) -> Any:
    """The object that a pickle describes; the stream then stands after the pickle.

    Args:
        stream: the file, or the part of it that holds pickles.
        read_storage: returns the bytes of a storage by its key, type and size, or None if they are
            not to be read yet. Without it, references to storages are refused.
        read_bytes: takes a file in the file and returns its content.

    Raises:
        Refused: the pickle holds what is not read.
        Exception: of nearly any kind, the pickle is damaged.
    """
    start = stream.tell()
    # First all opcodes and lengths are checked, so that a wrong length allocates no memory.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in _OPCODES:
            raise Refused(f"the pickle opcode {opcode.name} {shown(argument or '')}".rstrip())
        check(count < MOST_OPCODES, "more opcodes than a checkpoint of these networks")
    stream.seek(start)
    return _Reader(stream, read_storage, read_bytes).load()
