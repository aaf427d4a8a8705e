"""Depthwise convolution: launchers of kernels/conv2d_*_depthwise.cu, for groups of one channel each."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.algorithms import macros_of
from gpuconv.backends.cuda.gemm.plan import LARGEST_WORKSPACE
from gpuconv.backends.cuda.gemm.product import ACTIVATIONS
from gpuconv.backends.cuda.gemm.reduce import reduce_splits
from gpuconv.backends.cuda.ops.conv_struct import packed
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import Kernel, load
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import pack_width
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.dtypes import accumulation_dtype, precision_of
from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array

_OUTPUTS = 4  # OUTPUTS of kernels/depthwise.cuh
_MOST_BLOCKS = 1024  # a filter gradient has about this many at most; constant, so that every device gives the same bits


def _width(problem: Conv2dProblem, pitches: tuple[int, ...], *arrays: Array) -> int:
    """How many channels move at once: 1 if several filters read a channel."""
    return pack_width(arrays[0].dtype, *arrays, count=math.gcd(problem.c, *pitches)) if problem.c == problem.k else 1


def _kernel(direction: str, width: int, dtype: np.dtype, *, tf32: bool, **macros: str) -> Kernel:
    defines = {**macros_of(precision_of(dtype, tf32)), "WIDTH": width, **macros}
    return load(f"conv2d_{direction}_depthwise.cu", defines).kernel(f"conv2d_{direction}_depthwise")


def _launch_rows(kernel: Kernel, rows: int, items: int, *arguments: object) -> None:
    """Launch a thread for each item of every row."""
    across = ceil_div(items, THREADS)
    kernel(rows * across, THREADS if across > 1 else ceil_div(items, WARP) * WARP, *arguments, across)


def fprop(
    y: Array,
    x: Array,
    x_pitch: int,
    w: Array,
    bias: Array | None,
    problem: Conv2dProblem,
    epilogue: Epilogue,
    *,
    tf32: bool,
) -> None:
    """Write y. x, x_pitch: rows with a pitch."""
    n, p, q, k = problem.y_shape
    if y.size:
        flat, pitch = rows_of(y)
        width = _width(problem, (pitch, x_pitch), x, flat)
        kernel = _kernel("fprop", width, y.dtype, tf32=tf32, ACTIVATION=ACTIVATIONS[epilogue.activation])
        _launch_rows(
            kernel, n * p, ceil_div(q, _OUTPUTS) * (k // width), flat, x, w, bias, packed(problem, 1, pitch, x_pitch)
        )


def dgrad(dx: Array, dy: Array, pitch: int, w: Array, problem: Conv2dProblem, *, tf32: bool, accumulate: bool) -> None:
    """Write dx, or add to it. dy, pitch: rows with a pitch."""
    (n, h, across, c), stride_w = problem.x_shape, problem.stride[1]
    if dx.size:
        flat, x_pitch = rows_of(dx)
        width = _width(problem, (pitch, x_pitch), flat, dy)
        items = stride_w * ceil_div(ceil_div(across, stride_w), _OUTPUTS) * (c // width)
        kernel = _kernel("dgrad", width, dx.dtype, tf32=tf32)
        _launch_rows(kernel, n * h, items, flat, dy, w, packed(problem, 1, pitch, x_pitch), accumulate)


def wgrad(
    dw: Array, dy: Array, pitch: int, x: Array, x_pitch: int, problem: Conv2dProblem, *, tf32: bool, accumulate: bool
) -> None:
    """Write dw, or add to it. dy, pitch, x, x_pitch: rows with a pitch."""
    (n, p, _, k), dtype = problem.y_shape, dy.dtype
    if not dw.size:
        return
    width = _width(problem, (pitch, x_pitch), dy, x)
    packs, taps = k // width, problem.r * problem.s
    lanes = min(WARP, 1 << (packs - 1).bit_length())
    tiles = ceil_div(packs, lanes) * ceil_div(taps, THREADS // lanes)
    workspace = LARGEST_WORKSPACE // (dw.size * accumulation_dtype(dtype).itemsize)
    rows = max(1, ceil_div(n * p, max(1, min(ceil_div(_MOST_BLOCKS, tiles), workspace))))
    split_k = max(1, ceil_div(n * p, rows))  # the sum over an empty batch is zero
    partials = empty((split_k, dw.size), accumulation_dtype(dtype), like=dw)
    kernel = _kernel("wgrad", width, dtype, tf32=tf32)
    kernel((tiles, split_k), THREADS, partials, dy, x, packed(problem, 1, pitch, x_pitch), lanes, rows)
    reduce_splits(dw, partials, accumulate=accumulate)
