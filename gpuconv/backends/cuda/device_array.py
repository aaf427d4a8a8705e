"""Making arrays where another array is: what a launcher needs to allocate its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuconv.backends import address
from gpuconv.backends.cuda import emulator


def empty(shape: int | Sequence[int], dtype: Any, *, like: Any) -> Any:
    """A new array on the device of `like`, unwritten (poisoned on the emulated device)."""
    return _maker(like).empty(shape, dtype)


def zeros(shape: int | Sequence[int], dtype: Any, *, like: Any) -> Any:
    """A new array of zeros on the device of `like`."""
    return _maker(like).zeros(shape, dtype)


def asarray(x: Any, dtype: Any = None, *, like: Any) -> Any:
    """A host array (a table of addresses, say) copied to the device of `like`."""
    return _maker(like).asarray(x, dtype)


def is_aligned(alignment: int, *arrays: Any) -> bool:
    """Whether every array (None counts as aligned) begins at a multiple of `alignment` bytes."""
    return all(array is None or address(array) % alignment == 0 for array in arrays)


def _maker(like: Any) -> Any:
    if isinstance(like, emulator.EmulatedArray):
        return emulator
    import cupy

    return cupy
