"""If an input shares memory with an output, the backend gets a copy of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv.backends import address, current_device_of, device_of, empty
from gpuconv.types import Array


def copy_if_overlapping(outputs: Sequence[Array | None], *inputs: Any, in_place: bool = False) -> list[Any]:
    """The inputs of an op, each one copied if it shares memory with an output.

    in_place: whether an output may be an input itself, because the op reads each element before it writes it.
    """
    written = [(output, _range(output)) for output in outputs if output is not None]
    if not written:
        return list(inputs)
    return [x if x is None or not _clashes(x, written, in_place) else copy_of(x) for x in inputs]


# The address of an array's first byte, and the one past its last byte. None for a plain NumPy array: reading its
# address takes longer than a comparison of two arrays by NumPy.
Range = tuple[int, int] | None


def _clashes(x: Array, written: Sequence[tuple[Array, Range]], in_place: bool = False) -> bool:
    """Whether an array may share memory with one that is written. in_place: as in `copy_if_overlapping`."""
    own = _range(x)
    for output, other in written:
        if own is None or other is None:
            overlaps = np.may_share_memory(x, output)
        else:
            overlaps = own[0] < other[1] and other[0] < own[1]
        if overlaps and not (in_place and same_memory(x, output)):
            return True
    return False


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one device may share memory: whether their address ranges overlap."""
    return _clashes(a, [(b, _range(b))])


def apart(arrays: Sequence[Array]) -> bool:
    """Whether no two of the arrays overlap."""
    earlier: list[tuple[Array, Range]] = []
    for array in arrays:
        if _clashes(array, earlier):
            return False
        earlier.append((array, _range(array)))
    return True


def _range(array: Array) -> Range:
    if type(array) is np.ndarray:
        return None
    if array.size == 0:
        return 0, 0
    begin = address(array)
    if array.flags.c_contiguous:
        return begin, begin + array.nbytes
    reach = [stride * (size - 1) for stride, size in zip(array.strides, array.shape)]
    return begin + sum(min(0, r) for r in reach), begin + sum(max(0, r) for r in reach) + array.dtype.itemsize


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays have the same address, shape and strides."""
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides and address(a) == address(b))


def copy_of(array: Array) -> Array:
    """A contiguous copy on the same device."""
    with current_device_of(array):
        copy = empty(array.shape, array.dtype, device_of(array))
        copy[...] = array
    return copy
