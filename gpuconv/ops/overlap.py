"""If an input shares memory with an output, the backend gets a copy of the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpuconv.backends import address, current_device_of, device_of, empty
from gpuconv.devices import KIND_OF_TYPE
from gpuconv.types import Array

# The address of an array's first byte, and the one past its last byte. None for a plain NumPy array: reading its
# address takes longer than a comparison of two arrays by NumPy.
Range = tuple[int, int] | None


class Written(list[tuple[Array, Range]]):
    """Outputs with their ranges, found once."""


def written(outputs: Iterable[Array | None]) -> Written:
    return Written([(output, _range(output)) for output in outputs if output is not None])


def copy_if_overlapping(
    outputs: Written | Sequence[Array | None], *inputs: Array | None, in_place: bool | Array | None = False
) -> list[Any]:
    """The inputs of an op, each one copied if it shares memory with an output.

    in_place: whether an output may be an input itself, because the op reads each element before it writes it; or the
    output of which this is true.
    """
    found = outputs if isinstance(outputs, Written) else written(outputs)
    results = list(inputs)
    if found:
        for index, x in enumerate(inputs):
            if x is not None and _clashes(x, _range(x), found, in_place):
                results[index] = copy_of(x)
    return results


def _clashes(
    x: Array, own: Range, outputs: Sequence[tuple[Array, Range]], in_place: bool | Array | None = False
) -> bool:
    """Whether an array, whose range is `own`, may share memory with one of the outputs. in_place: as in
    `copy_if_overlapping`."""
    begin, end = own or (0, 0)
    for output, other in outputs:
        if own is None or other is None:
            if not np.may_share_memory(x, output):
                continue
        elif begin >= other[1] or other[0] >= end:
            continue
        if not ((in_place is True or in_place is output) and same_memory(x, output)):
            return True
    return False


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one device may share memory: whether their address ranges overlap."""
    return _clashes(a, _range(a), written([b]))


def apart(outputs: Written) -> bool:
    """Whether no two of the outputs, which are few, overlap."""
    return not any(_clashes(output, own, outputs[:count]) for count, (output, own) in enumerate(outputs))


def _range(array: Any) -> Range:
    array_type = type(array)
    if array_type is np.ndarray:
        return None
    if array.size == 0:
        return 0, 0
    begin = array.data.ptr if KIND_OF_TYPE.get(array_type) == "cuda" else address(array)
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
