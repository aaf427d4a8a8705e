"""Reads pickles without running the code that they name.

A pickle names functions to call, so a crafted one can run any code. Here it may name only the functions that rebuild an
array, and gets harmless stand-ins for them. Opcodes that no array needs are refused, and no number in the pickle
determines an allocation or a nesting depth.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuconv.text.plain_text import printable


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle contains something that no array needs."""


class ArrayState:
    """Stand-in for numpy.ndarray, and for the function that creates an empty array."""

    state: object = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def values(self) -> NDArray[np.uint8] | None:
        """The array, if it has a uint8 array's state: (version, shape, dtype, is Fortran order, bytes)."""
        match self.state:
            case (int(), tuple(shape), _Dtype(code="u1"), fortran, bytes(data)):
                try:
                    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
                except (TypeError, ValueError):  # not a shape, or not the shape for this number of bytes
                    return None
        return None


class _Dtype:
    """Stand-in for numpy.dtype."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and field names, which uint8 does not have


def _from_buffer(data: object, dtype: object, shape: object, order: object, *_: object) -> ArrayState:
    """Stand-in for the function that rebuilds an array from a buffer, which NumPy names in protocol 5."""
    array = ArrayState()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stand-in for `_codecs.encode`, which Python 3 names to store bytes in protocols 0 to 2."""
    if encoding != "latin1":
        raise UnsafePickleError(f"it names the codec {encoding!r}, which no array needs")
    return text.encode("latin1")


class _Reader(Protocol):
    """The attributes of an Unpickler that its annotations leave out."""

    stack: list[Any]

    def read(self, size: int, /) -> bytes: ...
    def append(self, value: object, /) -> None: ...


class ArrayUnpickler(pickle._Unpickler):
    """Reads plain values (dicts, lists, tuples, strings, bytes, numbers, None) and arrays, as `ArrayState`s; raises
    UnsafePickleError for anything else.

    It derives from the Unpickler written in Python: the one in C allocates memory for as many objects as the pickle
    claims, and its opcodes cannot be overridden.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        match module, name:
            case ("numpy", "ndarray") | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return ArrayState
            case ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer"):
                return _from_buffer
            case ("numpy", "dtype"):
                return _Dtype
            case ("_codecs", "encode"):
                return _encode
        raise UnsafePickleError(
            f"it names {printable(f'{module}.{name}')}, which no array needs; nothing of it was run"
        )


_OPCODES = """
    PROTO FRAME STOP MARK POP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE
"""


def _refused(code: int) -> Callable[[Any], None]:
    def refuse(_: object) -> None:
        import pickletools

        opcode = next(known.name for known in pickletools.opcodes if known.code == chr(code))
        raise UnsafePickleError(f"it contains the opcode {opcode}, which no array needs; nothing of it was run")

    return refuse


def _shallow(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Refuses tuples nested deeper than in an array's state: hashing one as a dict key recurses once per level, and a
    deep one would overflow the stack."""

    def load_tuple(reader: _Reader) -> None:
        load(reader)
        for part in reader.stack[-1]:
            if type(part) is tuple and any(type(inner) is tuple for inner in part):
                raise UnsafePickleError("it contains tuples within tuples within tuples, which no array needs")

    return load_tuple


def _build(reader: _Reader) -> None:
    if not isinstance(reader.stack[-2], ArrayState | _Dtype):
        raise UnsafePickleError(f"it asks to change a {type(reader.stack[-2]).__name__}, which no array needs")
    _PLAIN[pickle.BUILD[0]](reader)


def _bytes(reader: _Reader) -> None:
    """Loads a bytearray as bytes. Reads only the bytes that exist, whatever length the pickle claims."""
    (size,) = struct.unpack("<Q", reader.read(8))
    reader.append(reader.read(size))


_PLAIN: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
_ALLOWED = {getattr(pickle, name)[0]: _PLAIN[getattr(pickle, name)[0]] for name in _OPCODES.split()}
_TUPLES = {
    code[0]: _shallow(_PLAIN[code[0]])
    for code in (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
}
ArrayUnpickler.dispatch = (
    {code: _refused(code) for code in _PLAIN}
    | _ALLOWED
    | _TUPLES
    | {pickle.BUILD[0]: _build, pickle.BYTEARRAY8[0]: _bytes}
)
