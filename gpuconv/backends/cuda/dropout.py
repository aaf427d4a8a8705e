"""Dropout: launchers of kernels/dropout.cu. Backward is forward on the gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuconv.backends.cuda.device_array import is_aligned
from gpuconv.backends.cuda.launch import THREADS, ceil_div, contiguous, device_scalar, flat_grid, write_to
from gpuconv.backends.cuda.module import load

__all__ = ["dropout", "dropout_backward"]


def dropout(x: Any, *, p: float, seed: int, substream: int = 0, offset: Any = 0, out: Any = None) -> Any:
    (x,) = contiguous(x)
    offset_at, offset = device_scalar(offset, np.int64)
    threshold, scale = math.ceil(p * 2**24), 1 / (1 - p)

    def write(y: Any) -> None:
        packed = x.size % 4 == 0 and is_aligned(4 * x.dtype.itemsize if x.dtype.itemsize < 8 else 16, x, y)
        module = load("dropout.cu", {"DTYPE": x.dtype.name, "VECTOR": 4 if packed and x.dtype.itemsize < 8 else 1})
        module.kernel("dropout_forward")(
            flat_grid(ceil_div(x.size, 4)), THREADS, y, x, x.size, threshold, scale, seed, substream, offset_at, offset
        )

    return write_to(out, x.shape, x.dtype, x, write)


def dropout_backward(dy: Any, *, p: float, seed: int, substream: int = 0, offset: Any = 0, out: Any = None) -> Any:
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, out=out)
