"""Depthwise convolution: launchers of kernels/conv2d_*_depthwise.cu, for groups of one channel each."""

from __future__ import annotations

from typing import Any

from gpuconv.algorithms import arithmetic_of, macros_of
from gpuconv.backends.cuda import gemm
from gpuconv.backends.cuda.device_array import empty
from gpuconv.backends.cuda.launch import THREADS, ceil_div
from gpuconv.backends.cuda.module import load
from gpuconv.dtypes import accumulation_dtype

_OUTPUTS = 4  # OUTPUTS of kernels/depthwise.cuh
_BLOCKS = 1024  # a filter gradient's aim, some eight a multiprocessor; the same on every device, so that the bits are


def _width(channels: int, filters: int, *arrays: Any) -> int:
    """Channels that move at once: one where several filters read a channel."""
    return gemm.vector(channels, *arrays) if channels == filters else 1


def _kernel(direction: str, width: int, dtype: Any, tf32: bool, **macros: Any) -> Any:
    defines = {**macros_of(arithmetic_of(dtype, tf32)), "WIDTH": width, **macros}
    return load(f"conv2d_{direction}_depthwise.cu", defines).kernel(f"conv2d_{direction}_depthwise")


def _rows(run: Any, rows: int, items: int, *arguments: Any) -> None:
    """Launch a thread for each of the items of every row."""
    across = ceil_div(items, THREADS)
    run(rows * across, THREADS if across > 1 else ceil_div(items, 32) * 32, *arguments, across)


def fprop(y: Any, x: Any, w: Any, bias: Any, struct: Any, activation: str | None, tf32: bool) -> None:
    (n, p, q, k), dtype = y.shape, y.dtype
    width = _width(x.shape[3], k, x, y)
    run = _kernel("fprop", width, dtype, tf32, ACTIVATION=gemm.ACTIVATIONS[activation])
    _rows(run, n * p, ceil_div(q, _OUTPUTS) * (k // width), y, x, w, bias, struct)


def dgrad(dx: Any, dy: Any, w: Any, struct: Any, stride_w: int, tf32: bool) -> None:
    (n, h, across, c), dtype = dx.shape, dx.dtype
    width = _width(c, dy.shape[3], dx, dy)
    items = stride_w * ceil_div(ceil_div(across, stride_w), _OUTPUTS) * (c // width)
    _rows(_kernel("dgrad", width, dtype, tf32), n * h, items, dx, dy, w, struct)


def wgrad(dw: Any, dy: Any, x: Any, struct: Any, tf32: bool, accumulate: bool) -> None:
    (n, p, _, k), dtype = dy.shape, dy.dtype
    width = _width(x.shape[3], k, dy, x)
    packs, taps = k // width, dw.size // k
    lanes = min(32, 1 << (packs - 1).bit_length())
    tiles = ceil_div(packs, lanes) * ceil_div(taps, THREADS // lanes)
    workspace = gemm.LARGEST_WORKSPACE // (dw.size * accumulation_dtype(dtype).itemsize)
    rows = max(1, ceil_div(n * p, max(1, min(ceil_div(_BLOCKS, tiles), workspace))))
    splits = max(1, ceil_div(n * p, rows))  # none of an empty batch sums to zero
    partials = empty((splits, dw.size), accumulation_dtype(dtype), like=dw)
    _kernel("wgrad", width, dtype, tf32)((tiles, splits), THREADS, partials, dy, x, struct, lanes, rows)
    gemm.reduce_splits(dw, partials, accumulate=accumulate)
