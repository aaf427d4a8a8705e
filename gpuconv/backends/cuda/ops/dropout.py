"""Dropout: launchers of kernels/dropout.cu. Backward is forward on the gradient."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import (
    THREADS,
    buffer,
    ceil_div,
    contiguous,
    device_scalar,
    flat_grid,
    is_aligned,
    store,
)
from gpuconv.types import ArrayT, Scalar


def dropout(
    x: ArrayT, *, p: float, seed: int, substream: int, offset: Scalar, first: int, out: ArrayT | None
) -> ArrayT:
    (x,) = contiguous(x)
    y, size = buffer(out, x.shape, x.dtype, like=x), x.dtype.itemsize
    packed = size < 8 and x.size % 4 == 0 and first % 4 == 0 and is_aligned(4 * size, x, y)
    kernel = load("dropout.cu", {"DTYPE": x.dtype, "VECTOR": 4 if packed else 1}).kernel("dropout_forward")
    threshold, scale = math.ceil(p * 2**24), 1 / (1 - p)
    philox = (seed, substream, *device_scalar(offset, np.int64), first)
    kernel(flat_grid(ceil_div(first % 4 + x.size, 4)), THREADS, y, x, x.size, threshold, scale, *philox)
    return store(y, out)


def dropout_backward(
    dy: ArrayT, *, p: float, seed: int, substream: int, offset: Scalar, first: int, out: ArrayT | None
) -> ArrayT:
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out)
