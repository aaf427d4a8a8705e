"""The launch geometry of kernels/column_reduce.cuh: how an (M, C) matrix is distributed to threads and blocks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import pack_width
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.dtypes import accumulation_dtype
from gpuconv.integers import ceil_div
from gpuconv.types import Array

_COLUMNS = np.dtype(
    [(name, np.int64) for name in ("size", "stride", "chunk")]
    + [(name, np.int32) for name in ("channels", "tile", "rows")],
    align=True,
)
_MOST_BLOCKS = 1024  # per launch, about eight per multiprocessor; constant, so that every device gives the same bits
_GROUP = 4  # the most loads in flight per thread; a chunk is a multiple of it
MAP_STEPS = 16  # the most steps of a block that only maps: enough to outweigh reading the channels' coefficients
_FINISH_COLUMNS = 8  # FINISH_COLUMNS of the header


@dataclass(frozen=True)
class Columns:
    """The kernels' `struct Columns`, the grid (chunks, tiles) and the threads of a block."""

    struct: np.void
    grid: tuple[int, int]
    threads: int

    @property
    def chunks(self) -> int:
        return self.grid[0]


def width_of(channels: int, first: Array, *others: Array | None, pitches: tuple[int, ...] = ()) -> int:
    """How many numbers a thread moves at once: 16 bytes of them if alignment and the number of channels allow it, else
    1. pitches: the distance from row to row in each array whose rows may lie farther apart than `channels`."""
    if pitches.count(channels) != len(pitches):  # some rows have a pitch
        return pack_width(first.dtype, first, *others, count=math.gcd(channels, *pitches))
    width = pack_width(first.dtype, first, *others)
    return width if channels % width == 0 or math.lcm(channels, width) <= THREADS * width else 1


@functools.lru_cache(maxsize=1024)
def distribute(rows: int, channels: int, width: int, most_steps: int | None) -> Columns:
    """Distribute a (rows, channels) matrix, `width` numbers per thread and step.

    most_steps: the most steps of a block, or None for a reduction, which has few, long blocks.
    """
    numbers_a_step = THREADS * width
    unit = math.lcm(channels, width)  # the fewest numbers that make up complete rows and complete packs
    if unit <= numbers_a_step:
        tile, tiles, rows_a_step = channels, 1, numbers_a_step // unit * unit // channels
        stride = rows_a_step * channels
    else:
        tiles = ceil_div(channels, numbers_a_step)
        tile, rows_a_step = ceil_div(ceil_div(channels, tiles), width) * width, 1
        stride = channels
    steps = ceil_div(rows, rows_a_step)
    even_share = ceil_div(steps * tiles, _MOST_BLOCKS)
    chunk = max(2 * _GROUP, even_share) if most_steps is None else min(max(_GROUP, even_share), most_steps)
    chunk = ceil_div(chunk, _GROUP) * _GROUP
    columns = struct(_COLUMNS, rows * channels, stride // width, chunk, channels, tile, rows_a_step)
    threads = ceil_div(ceil_div(rows_a_step * tile, width), WARP) * WARP
    return Columns(columns, (max(1, ceil_div(steps, chunk)), tiles), threads)


def partials(columns: Columns, state_numbers: int, dtype: np.dtype, like: Array) -> Array | None:
    """Workspace for a reduction's partial results, a State of `state_numbers` numbers per chunk and channel; None if
    there is only one chunk, because then the first launch finishes the reduction."""
    if columns.chunks == 1:
        return None
    return empty((columns.chunks, int(columns.struct["channels"]), state_numbers), accumulation_dtype(dtype), like=like)


def finish_grid(channels: int) -> int:
    """The number of blocks of the launch that adds partial results."""
    return ceil_div(channels, _FINISH_COLUMNS)
