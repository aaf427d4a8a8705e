"""The launch geometry of kernels/class_rows.cuh: how rows of class scores are distributed to sub-warps."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.dtypes import is_float
from gpuconv.integers import ceil_div
from gpuconv.types import Array

_MOST_BLOCKS = 1024  # of a launch; the same on every device, so that a loss has the same bits on all


def row_module(file: str, x: Array, **macros: DTypeLike) -> tuple[Module, int]:
    """The module for x's dtype and number of classes, and the number of lanes per row."""
    lanes = min(WARP, 1 << (x.shape[1] - 1).bit_length())
    wide = x.dtype.itemsize == 8 or is_float(np.dtype(macros.get("LABEL", np.int64)))  # each score takes two registers
    most = 16 if wide else 32  # more would spill; longer rows are read again from cache
    per_lane = next((count for count in (1, 4) if lanes * count >= x.shape[1]), most)
    return load(file, {"DTYPE": x.dtype, "PER_LANE": per_lane, **macros}), lanes


def row_blocks(rows: int, lanes: int) -> int:
    """The number of thread blocks that share the rows."""
    return min(ceil_div(rows * lanes, THREADS), _MOST_BLOCKS)
