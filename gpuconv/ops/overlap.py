"""If an input shares memory with an output, the backend receives a copy of the input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, TypeVarTuple

import numpy as np

from gpuconv.backends import address, current_device_of
from gpuconv.types import Array

# The address of an array's first byte, and the one past its last byte. Plain NumPy arrays get the range of all
# addresses, because reading their address takes longer than `np.may_share_memory`.
Range = tuple[int, int]
_ANYWHERE = 0, 1 << 64


Arrays = TypeVarTuple("Arrays")  # each of them an array or None


class Written(list[tuple[Array, int, int]]):
    """Outputs, each with the ends of its address range, computed once."""


def written(outputs: Iterable[Array | None]) -> Written:
    return Written([(output, *_range(output)) for output in outputs if output is not None])


def copy_if_overlapping(
    outputs: Written | Sequence[Array | None], *inputs: *Arrays, in_place: bool | Array | None = False
) -> tuple[*Arrays]:
    """The inputs of an op, each one copied if it shares memory with an output.

    in_place: whether an output may be an input itself, because the op reads each element before it writes it; or the
    output of which this is true.
    """
    found = outputs if isinstance(outputs, Written) else written(outputs)
    results: tuple[Any, ...] = inputs
    for index, x in enumerate(results if found else ()):
        if x is None:
            continue
        begin, end = _range(x)
        for output, first, last in found:
            if begin < last and first < end and _clash(x, output, in_place):
                results = (*results[:index], copy_of(x), *results[index + 1 :])
                break
    return results


def _clash(x: Array, output: Array, in_place: bool | Array | None = False) -> bool:
    """Whether two arrays whose ranges overlap may share memory, other than as `in_place` allows (see
    `copy_if_overlapping`)."""
    if not x.size or not output.size or (type(x) is np.ndarray and not np.may_share_memory(x, output)):
        return False
    allowed = (in_place is True or in_place is output) and same_memory(x, output)
    return not allowed and not _are_interleaved(x, output)


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one device may share memory."""
    return not disjoint(written([a, b]))


def disjoint(outputs: Written) -> bool:
    """Whether no two of the (few) outputs overlap."""
    for (a, begin, end), (b, first, last) in combinations(outputs, 2):
        if begin < last and first < end and _clash(a, b):
            return False
    return True


def _range(array: Array) -> Range:
    if type(array) is np.ndarray:
        return _ANYWHERE
    begin = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr  # `address`, inlined
    if array.flags.c_contiguous:
        return begin, begin + array.nbytes
    reach = [stride * (size - 1) for stride, size in zip(array.strides, array.shape)]
    return begin + sum(min(0, r) for r in reach), begin + sum(max(0, r) for r in reach) + array.dtype.itemsize


def _are_interleaved(a: Array, b: Array) -> bool:
    """Whether the rows of two arrays alternate in memory and share none, as do those of the channel slices
    ``y[..., :3]`` and ``y[..., 3:7]``. In both arrays, rows begin multiples of one pitch apart. So the arrays share
    no memory if their first rows do not overlap modulo the pitch."""
    pitch, rows = 0, []
    for array in (a, b):
        axes = [(size, stride) for size, stride in zip(array.shape, array.strides) if size > 1]
        dense = axes.pop()[0] if axes and axes[-1][1] == array.itemsize else 1
        pitch = math.gcd(pitch, *(stride for _, stride in axes))
        rows.append(dense * array.itemsize)
    return pitch > 0 and rows[0] <= (address(b) - address(a)) % pitch <= pitch - rows[1]


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays have the same address, dtype, shape and strides."""
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides and address(a) == address(b))


def copy_of(array: Array) -> Array:
    """A contiguous copy on the same device."""
    with current_device_of(array):
        return array.copy()
