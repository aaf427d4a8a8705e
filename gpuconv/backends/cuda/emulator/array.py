"""Arrays on the emulated device: an ndarray subclass, so that dispatch goes by type, as with CuPy."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

POISON_INTEGER, POISON_FLOAT = 0xCD, 0xFF  # 0xff...ff is a NaN in every floating-point dtype


class EmulatedArray(np.ndarray):
    """An array in the emulated device's memory.

    `empty`, `zeros` and `asarray` of this module make one, aligned to 256 bytes as cudaMalloc's are and with guards
    around it. NumPy's functions work on it and return emulated arrays, but, as on a GPU, a NumPy array does not mix
    with it: that is a TypeError.
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        for operand in (*inputs, *(out or ())):
            if isinstance(operand, np.ndarray) and not isinstance(operand, EmulatedArray) and operand.ndim:
                raise TypeError(
                    f"{ufunc.__name__} of an array on the emulated device and a NumPy array; "
                    "gpuconv.asarray(x, device=...) moves one"
                )
        if out is not None:
            options["out"] = tuple(_plain(array) for array in out)
        result = getattr(ufunc, method)(*(_plain(operand) for operand in inputs), **options)
        if out is not None:
            return out[0] if len(out) == 1 else out
        return tuple(_emulated(array) for array in result) if isinstance(result, tuple) else _emulated(result)


def _plain(operand: Any) -> Any:
    return operand.view(np.ndarray) if isinstance(operand, EmulatedArray) else operand


def _emulated(result: Any) -> Any:
    return result.view(EmulatedArray) if isinstance(result, np.ndarray) else result


def _allocate(shape: int | Sequence[int], dtype: Any, poison: int | None) -> EmulatedArray:
    from gpuconv.backends.cuda.emulator.native import runtime

    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = math.prod(shape) * dtype.itemsize
    if poison is None:
        poison = POISON_INTEGER if dtype.kind in "iub" else POISON_FLOAT
    address = runtime().gpuconv_allocate(nbytes, poison)
    if not address:
        raise MemoryError(f"no memory for an emulated array of shape {shape} and dtype {dtype}: {nbytes} bytes")
    memory = (ctypes.c_char * nbytes).from_address(address)
    weakref.finalize(memory, runtime().gpuconv_release, address).atexit = False
    return np.ndarray.__new__(EmulatedArray, shape, dtype, buffer=memory)


def empty(shape: int | Sequence[int], dtype: Any = np.float32) -> EmulatedArray:
    """A new array whose elements nobody has written: NaN for floats, bytes 0xcd for integers."""
    return _allocate(shape, dtype, None)


def zeros(shape: int | Sequence[int], dtype: Any = np.float32) -> EmulatedArray:
    """A new array of zeros."""
    return _allocate(shape, dtype, 0)


def asarray(x: Any, dtype: Any = None) -> EmulatedArray:
    """`x` on the emulated device: itself when it is there already and of that dtype, else a copy."""
    if isinstance(x, EmulatedArray) and dtype in (None, x.dtype):
        return x
    host = np.asarray(x, dtype)
    array = empty(host.shape, host.dtype)
    array.view(np.ndarray)[...] = host
    return array
