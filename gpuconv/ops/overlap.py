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
    given = [output for output in outputs if output is not None]
    return [_copied_if_overlapping(x, given, in_place) for x in inputs] if given else list(inputs)


def _copied_if_overlapping(x: Array | None, outputs: Sequence[Array], in_place: bool) -> Array | None:
    if x is None:
        return None
    clashes = any(overlap(x, output) and not (in_place and same_memory(x, output)) for output in outputs)
    return copy_of(x) if clashes else x


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one device may share memory: whether their address ranges overlap."""
    if type(a) is type(b) is np.ndarray:
        return np.may_share_memory(a, b)
    (a_begin, a_end), (b_begin, b_end) = _range(a), _range(b)
    return a_begin < b_end and b_begin < a_end


def _range(array: Array) -> tuple[int, int]:
    """The address of an array's first byte, and the one past its last byte."""
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
