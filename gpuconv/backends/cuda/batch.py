"""Batches out of a uint8 data set in device memory: the launcher of kernels/load_batch.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.device_array import empty
from gpuconv.backends.cuda.gemm import DIVISOR, divisor
from gpuconv.backends.cuda.launch import THREADS, ceil_div, contiguous, device_scalar, write_to
from gpuconv.backends.cuda.module import load
from gpuconv.dtypes import as_dtype
from gpuconv.shapes import batch_indices

__all__ = ["load_batch"]

_ELEMENTS = 4096  # of one sample, a thread block

_MOST_ELEMENTS = 2**31 - 2**16  # of one sample: a thread's next one is counted in 32 bits too

_FLIPS: dict[bool | str, int] = {False: 0, True: 1, "alternating": 2}  # the kernel's `enum Flip`

_BATCH = np.dtype(
    [("images", np.int64), ("indices", np.int64), ("height", np.int32), ("width", DIVISOR), ("channels", DIVISOR)]
    + [(name, np.int32) for name in ("mean_each", "std_each", "flip", "shift", "reflect", "cutout", "blocks")],
    align=True,
)


def load_batch(
    images: Any,
    labels: Any,
    indices: Any,
    *,
    mean: Any,
    std: Any,
    flip: bool | str = False,
    shift: int = 0,
    border: str = "zero",
    cutout: int = 0,
    seed: int = 0,
    offset: Any = 0,
    start: Any = 0,
    count: int | None = None,
    dtype: Any = "float32",
    out: Any = None,
) -> Any:
    m, h, w, c = images.shape
    if h * w * c >= _MOST_ELEMENTS:
        raise ValueError(f"an image has at most {_MOST_ELEMENTS - 1} numbers, received {h} x {w} x {c}")
    assert count is not None  # shapes.py says how long the rest is
    if isinstance(indices, np.ndarray) and emulator.host_reads():
        batch_indices(indices, start, count, m)
    n, dtype = count, as_dtype(dtype)
    images, labels, indices, mean, std = contiguous(images, labels, indices, mean, std)
    place = (*device_scalar(offset, np.int64), *device_scalar(start, np.int64))
    picked = empty((n,), labels.dtype, like=labels)
    blocks = max(1, ceil_div(h * w * c, _ELEMENTS))
    sides, each = (h, divisor(max(1, w)), divisor(max(1, c))), (mean.ndim > 1, std.ndim > 1)
    options = (_FLIPS[flip], shift, border == "reflect", cutout)
    batch = np.array((m, indices.shape[0], *sides, *each, *options, blocks), _BATCH)[()]

    def write(x: Any) -> None:
        kernel = load("load_batch.cu", {"DTYPE": dtype.name}).kernel("load_batch")
        kernel(n * blocks, THREADS, x, picked, images, labels, indices, mean, std, seed, *place, batch)

    return write_to(out, (n, h, w, c), dtype, images, write), picked
