"""The digest of a tensor: launcher of kernels/digest.cu."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, store
from gpuconv.backends.cuda.runtime.scalars import KINDS
from gpuconv.integers import ceil_div
from gpuconv.types import ArrayT

_SUMS = 4  # 8-byte numbers in the kernel's `struct Sums`
_MOST_BLOCKS = 1024
_BLOCK_BYTES = 2**14  # the bytes of x that a block reads; more if _MOST_BLOCKS blocks would not read all of x


def digest(x: ArrayT, before: ArrayT | None, *, out: ArrayT | None) -> ArrayT:
    x, before = contiguous(x, before)
    result = buffer(out, (5,), np.float64, like=x)
    blocks = min(max(1, ceil_div(x.nbytes, _BLOCK_BYTES)), _MOST_BLOCKS)
    partials = empty((blocks, _SUMS), np.float64, like=x)
    run = load("digest.cu").kernel("tensor_digest")
    run(blocks, THREADS, result, partials, block_counters(x), x, before, x.size, KINDS.index(x.dtype.name))
    return store(result, out)
