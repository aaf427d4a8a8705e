"""Creates arrays on the current device, for the launchers' results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda import emulator
from gpuconv.types import Array, ArrayT


def empty(shape: int | Sequence[int], dtype: DTypeLike, *, like: ArrayT) -> ArrayT:
    """A new array on the current device, which the caller has made that of `like`; unwritten (poisoned on the emulated
    device)."""
    maker: Any = emulator if isinstance(like, np.ndarray) else sys.modules["cupy"]  # `_array_module`, inlined for speed
    return maker.empty(shape, dtype)


def zeros(shape: int | Sequence[int], dtype: DTypeLike, *, like: ArrayT) -> ArrayT:
    """A new array of zeros on the current device, which the caller has made that of `like`."""
    return _array_module(like).zeros(shape, dtype)


def span(array: ArrayT, count: int) -> ArrayT:
    """A flat view of the `count` numbers that begin at an array's first; all must lie in the array's allocation."""
    return strided(array, (count,), (1,))


def strided(array: ArrayT, shape: tuple[int, ...], strides: tuple[int, ...]) -> ArrayT:
    """A view of the memory that begins at an array's first number; all of it must lie in the array's allocation.
    strides: in numbers."""
    in_bytes = tuple(stride * array.dtype.itemsize for stride in strides)
    if isinstance(array, emulator.EmulatedArray):
        return np.lib.stride_tricks.as_strided(array, shape, in_bytes, subok=True)  # type: ignore[return-value]
    return sys.modules["cupy"].ndarray(shape, array.dtype, array.data, in_bytes)


def _array_module(like: Array) -> ModuleType:
    return emulator if isinstance(like, np.ndarray) else sys.modules["cupy"]
