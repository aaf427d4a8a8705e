"""Reading pickles without running what they say.

A pickle names functions and has them called: a crafted one runs any code. Here it gets to name what an array is made of
and nothing else, and even for those it is handed stand-ins, which keep what they are given and do nothing.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for what no array needs."""


class ArrayState:
    """Stands in for numpy.ndarray and for the function that makes an empty one."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def values(self) -> NDArray[np.uint8] | None:
        """The array, if its state is that of a uint8 one: (version, shape, dtype, is Fortran order, bytes)."""
        match self.state:
            case (int(), tuple(shape), _Dtype(code="u1"), fortran, bytes(data)):
                try:
                    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
                except (TypeError, ValueError):  # a shape that is none, or not that of so many bytes
                    return None
        return None


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        pass  # byte order and field names: nothing that a byte has


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into the old pickle protocol."""
    if encoding != "latin1":
        raise RefusedError(f"it asks for the codec {encoding!r}, which no array needs")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and `ArrayState`s; raises RefusedError at anything else."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy", "ndarray") | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return ArrayState
            case ("numpy", "dtype"):
                return _Dtype
            case ("_codecs", "encode"):
                return _encode
        raise RefusedError(f"it asks for {module}.{name}, which no array needs; nothing of it was run")
