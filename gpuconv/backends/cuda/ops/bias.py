"""The gradient to a bias: the launcher of kernels/bias_grad.cu."""

from __future__ import annotations

import math

from gpuconv.backends.cuda.ops.column_reduce import deal, finish_grid, partials, width_of
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import THREADS, buffer, contiguous, store
from gpuconv.types import ArrayT


def bias_grad(dy: ArrayT, *, out: ArrayT | None, accumulate: bool) -> ArrayT:
    *leading, channels = dy.shape
    (dy,) = contiguous(dy)
    db = buffer(out, (channels,), dy.dtype, like=dy, keep=accumulate)
    if channels:
        width = width_of(channels, dy)
        columns = deal(math.prod(leading), channels, width, None)
        sums = partials(columns, 1, dy.dtype, dy)
        module = load("bias_grad.cu", {"DTYPE": dy.dtype, "WIDTH": width})
        module.kernel("bias_grad_sum")(columns.grid, columns.threads, db, sums, dy, accumulate, columns.struct)
        if sums is not None:
            finish = module.kernel("bias_grad_finish")
            finish(finish_grid(channels), THREADS, db, sums, accumulate, columns.chunks, channels)
    return store(db, out)
