"""Arrays as kernels take them: contiguous inputs, outputs, their alignment, and the pitch of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVarTuple

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.types import Array, ArrayT

Arrays = TypeVarTuple("Arrays")  # each of them an array or None


def contiguous(*arrays: *Arrays) -> tuple[*Arrays]:
    """The arrays, each copied if it is a strided view; None is kept."""
    return tuple([a if a is None or a.flags.c_contiguous else contiguous_copy(a) for a in arrays])  # type: ignore[attr-defined, return-value, type-var]


def contiguous_copy(array: ArrayT) -> ArrayT:
    """A contiguous copy on the same device."""
    copy = empty(array.shape, array.dtype, like=array)
    copy[...] = array
    return copy


def pitch_of(array: Array) -> int | None:
    """The number of elements from the beginning of one row of the last axis to the beginning of the next. The rows must
    be dense and evenly spaced, as in a contiguous array or a slice of its channels, ``y[..., 3:7]``; for any other
    array, the result is None."""
    if array.flags.c_contiguous:
        return array.shape[-1] if array.ndim else 1
    *outer, (length, last_stride) = zip(array.shape, array.strides)
    pitch_bytes = expected = None  # the stride of the innermost outer axis, and the stride that the next axis must have
    for size, stride in reversed(outer):
        if size != 1:
            if stride <= 0 or stride != (expected or stride):
                return None
            pitch_bytes, expected = pitch_bytes or stride, size * stride
    itemsize = array.dtype.itemsize
    dense = last_stride == itemsize or length == 1
    if not dense or pitch_bytes is None or pitch_bytes < length * itemsize or pitch_bytes % itemsize:
        return None
    return pitch_bytes // itemsize


def is_aligned(alignment: int, *arrays: Array | None) -> bool:
    """Whether every array (None counts as aligned) begins at a multiple of `alignment` bytes, a power of two."""
    addresses = 0
    for array in arrays:
        if array is not None:
            # devices.address, inlined
            addresses |= array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return addresses % alignment == 0


def pack_width(dtype: np.dtype, *arrays: Array | None, count: int = 0) -> int:
    """The number of elements in 16 bytes, or 1 if an array is not aligned to 16 bytes or that number does not divide
    `count`. None counts as aligned."""
    width = 16 // dtype.itemsize
    return width if count % width == 0 and is_aligned(16, *arrays) else 1


def buffer(
    out: ArrayT | None,
    shape: Sequence[int],
    dtype: DTypeLike,
    *,
    like: ArrayT,
    keep: bool = False,
    pitched: bool = False,
) -> ArrayT:
    """The array that a kernel writes: `out` if it is contiguous, else a new contiguous one, from which `store` fills
    `out`.

    keep: the new array starts with the values of `out`, for a kernel that accumulates. pitched: the kernel can write
    rows with a pitch (`rows.rows_of`), such as a slice of channels; an `out` of such rows is then returned too.
    """
    if out is None:
        return empty(shape, dtype, like=like)
    if out.flags.c_contiguous or (pitched and pitch_of(out) is not None):
        return out
    return contiguous_copy(out) if keep else empty(shape, dtype, like=like)


def store(result: ArrayT, out: ArrayT | None) -> ArrayT:
    """The result of an op: `out`, filled from the array that `buffer` returned, or that array if there is no `out`."""
    if out is None or result is out:
        return result
    out[...] = result
    return out


def put_back(arrays: Sequence[Array], targets: Sequence[Array]) -> None:
    """Copy a kernel's results to those arrays that are strided views. targets: `contiguous(*arrays)`, which the kernel
    wrote."""
    for array, target in zip(arrays, targets):
        if target is not array:
            array[...] = target
