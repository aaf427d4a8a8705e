"""Rows with a pitch: arrays whose rows of the last axis are dense and evenly spaced, such as a slice of the channels of
a wider volume, ``y[..., 3:7]``. Kernels that take the pitch read and write such slices in place."""

from __future__ import annotations

import math

from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.limits import MAX_GRID
from gpuconv.backends.cuda.runtime.new_arrays import span
from gpuconv.backends.cuda.runtime.outputs import contiguous_copy, pitch_of
from gpuconv.integers import ceil_div
from gpuconv.types import ArrayT

_MOST_BLOCKS = MAX_GRID[1]  # the most blocks along the rows; with more rows, a block takes several in turn


def rows_of(array: ArrayT) -> tuple[ArrayT, int]:
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


def grid_over_rows(rows: int, packs: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block with a thread for each pack of each row, and up to 32 threads side by side in a row."""
    columns = min(32, 1 << (packs - 1).bit_length())
    block = columns, THREADS // columns
    return (ceil_div(packs, columns), min(ceil_div(rows, block[1]), _MOST_BLOCKS)), block
