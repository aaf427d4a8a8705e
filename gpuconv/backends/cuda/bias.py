"""The gradient to a bias: the launcher of kernels/bias_grad.cu."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.backends.cuda.columns import deal, finish_grid, partials, width_of
from gpuconv.backends.cuda.launch import THREADS, contiguous, write_to
from gpuconv.backends.cuda.module import load

__all__ = ["bias_grad"]


def bias_grad(dy: Any, *, out: Any = None, accumulate: bool = False) -> Any:
    *leading, channels = dy.shape
    (dy,) = contiguous(dy)

    def write(db: Any) -> None:
        width = width_of(channels, dy.dtype, dy)
        columns = deal(math.prod(leading), channels, width, None)
        sums = partials(columns, 1, dy.dtype, dy)
        module = load("bias_grad.cu", {"DTYPE": dy.dtype.name, "WIDTH": width})
        module.kernel("bias_grad_sum")(columns.grid, columns.threads, db, sums, dy, accumulate, columns.struct)
        if sums is not None:
            finish = module.kernel("bias_grad_finish")
            finish(finish_grid(channels), THREADS, db, sums, accumulate, columns.chunks, channels)

    return write_to(out, (channels,), dy.dtype, dy, write, keep=accumulate)
