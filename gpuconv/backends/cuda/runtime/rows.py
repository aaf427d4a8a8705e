"""Rows with a pitch: arrays whose rows of the last axis are dense and evenly spaced, such as a slice of the channels of
a wider volume, ``y[..., 3:7]``. Kernels that take the pitch read and write such slices in place."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.limits import MAX_GRID
from gpuconv.backends.cuda.runtime.new_arrays import empty, span
from gpuconv.backends.cuda.runtime.outputs import contiguous_copy, pack_width, pitch_of
from gpuconv.integers import ceil_div
from gpuconv.types import Array, ArrayT

_MOST_BLOCKS = MAX_GRID[1]  # the most blocks along the rows; with more rows, a block takes several in turn


def rows_of(array: Array) -> tuple[Any, int]:
    """The contiguous array that a kernel takes for an array, and the pitch of the rows in it. For a contiguous array it
    is the array itself, for a slice of channels a flat view from its first number to its last, else a copy."""
    if array.flags.c_contiguous:  # most arrays are
        return array, array.shape[-1] if array.ndim else 1
    pitch = pitch_of(array)
    if pitch is None:
        return contiguous_copy(array), array.shape[-1]
    if not array.size:
        return array, pitch
    return span(array, (math.prod(array.shape[:-1]) - 1) * pitch + array.shape[-1]), pitch


def rows_to_sum(array: Array, count: int = 0) -> tuple[Any, int]:
    """Like `rows_of`, for a kernel whose order of sums depends on the pack width: a slice is copied if only the copy
    allows wide packs, so that it gives the same bits as a contiguous array. count: another number that a wide pack's
    width must divide."""
    flat, pitch = rows_of(array)
    dense = array.shape[-1]
    if pitch == dense:
        return flat, pitch
    wide = 16 // array.itemsize
    copy_is_wide = dense % wide == 0 and count % wide == 0
    if copy_is_wide and pack_width(flat.dtype, flat, count=pitch) == 1:
        return copied_rows(array), dense
    return flat, pitch


def copied_rows(array: ArrayT) -> ArrayT:
    """A contiguous copy of rows with a pitch."""
    y = empty(array.shape, array.dtype, like=array)
    copy_rows(y, array)
    return y


def copy_rows(y: Array, x: Array) -> None:
    """Copy x into y, of the same shape; both may be rows with a pitch."""
    if y.size:
        (to, y_pitch), (source, x_pitch) = rows_of(y), rows_of(x)
        launch_by_rows("copy_rows", x.shape, (to, source), (y_pitch, x_pitch))


def launch_by_rows(
    kernel: str, shape: tuple[int, ...], arrays: tuple[Array, ...], pitches: tuple[int, ...], *scalars: object
) -> None:
    """Launch a kernel(arrays..., rows, packs, pitches..., scalars...) of arithmetic.cu over the rows of the last axis;
    the kernel's pitches are in packs."""
    if not arrays[0].size:
        return
    length = shape[-1] if shape else 1
    rows, width = math.prod(shape[:-1]), pack_width(arrays[0].dtype, *arrays, count=math.gcd(length, *pitches))
    packs = length // width
    run = load("arithmetic.cu", {"DTYPE": arrays[0].dtype, "WIDTH": width}).kernel(kernel)
    run(*grid_over_rows(rows, packs), *arrays, rows, packs, *(pitch // width for pitch in pitches), *scalars)


def grid_over_rows(rows: int, packs: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block with a thread for each pack of each row, and up to 32 threads side by side in a row."""
    columns = min(32, 1 << (packs - 1).bit_length())
    block = columns, THREADS // columns
    return (ceil_div(packs, columns), min(ceil_div(rows, block[1]), _MOST_BLOCKS)), block
