"""Grids of thread blocks for kernels over a flat range."""

from __future__ import annotations

from gpuconv.backends.cuda.runtime.limits import MAX_GRID
from gpuconv.integers import ceil_div

THREADS = 256  # threads of a block, for kernels over a flat range
_MAX_BLOCKS = MAX_GRID[0]


def flat_grid(work: int) -> int:
    """The number of blocks, of THREADS threads each, that give each of `work` items a thread, up to the largest grid;
    kernels loop over further items."""
    return min(ceil_div(work, THREADS), _MAX_BLOCKS)
