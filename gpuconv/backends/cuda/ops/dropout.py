"""Dropout: launchers of kernels/dropout.cu. Backward is forward on the gradient."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import buffer, is_aligned, store
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.backends.cuda.runtime.scalars import device_scalar
from gpuconv.integers import ceil_div
from gpuconv.types import ArrayT, Scalar


def dropout(
    x: ArrayT, *, p: float, seed: int, substream: int, offset: Scalar, first: int, out: ArrayT | None
) -> ArrayT:
    y, size = buffer(out, x.shape, x.dtype, like=x, pitched=True), x.dtype.itemsize
    (y_rows, y_pitch), (x_rows, x_pitch) = rows_of(y), rows_of(x)
    length = x.shape[-1] if x.ndim else 1
    gaps = y_pitch - length, x_pitch - length
    whole_packs = x.size % 4 == first % 4 == 0 and (gaps == (0, 0) or math.gcd(length, *gaps) % 4 == 0)
    packed = size < 8 and whole_packs and is_aligned(4 * size, x_rows, y_rows)
    kernel = load("dropout.cu", {"DTYPE": x.dtype, "VECTOR": 4 if packed else 1}).kernel("dropout_forward")
    threshold, scale = math.ceil(p * 2**24), 1 / (1 - p)
    philox = (seed, substream, *device_scalar(offset, np.int64), first)
    blocks = flat_grid(ceil_div(first % 4 + x.size, 4))
    kernel(blocks, THREADS, y_rows, x_rows, x.size, threshold, scale, *philox, length, *gaps)
    return store(y, out)


def dropout_backward(
    dy: ArrayT, *, p: float, seed: int, substream: int, offset: Scalar, first: int, out: ArrayT | None
) -> ArrayT:
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out)
