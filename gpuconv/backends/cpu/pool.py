"""Pooling: one pass over the whole volume for each cell (r, s) of the window, through strided slices.

A cell's slices hold only the windows whose cell (r, s) lies inside the input, so padding, partial last windows and
dropped borders need no further care.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpuconv.backends.cpu.im2col import overlap
from gpuconv.backends.cpu.parallel import in_parts
from gpuconv.backends.cpu.precision import separate, store, widen
from gpuconv.backends.cpu.select import keep, replace
from gpuconv.dtypes import accumulation_dtype
from gpuconv.shapes import Padding, Pair, argmax_dtype, output_hw

__all__ = [
    "avg_pool2d",
    "avg_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

Region = tuple[slice, slice, slice]


@np.errstate(all="ignore")  # NaN is a value like others here
def max_pool2d(x, *, kernel_size, stride=None, padding=0, fit="floor", out=None):
    n, h, w, c = x.shape
    pq = output_hw((h, w), kernel_size, stride, padding, fit=fit)
    y = separate(out, (n, *pq, c), x.dtype, x)
    argmax = np.empty(y.shape, argmax_dtype(kernel_size))

    def pool(x, y, argmax):
        y[...] = -np.inf
        argmax[...] = _first_inside(pq, kernel_size, stride, padding)[:, :, None]
        for cell, windows, inside in _cells((h, w), pq, kernel_size, stride, padding):
            best, challenger = y[windows], np.ascontiguousarray(x[inside])  # short runs are walked once, not often
            if cell == 0 and best.shape == y.shape:  # it has nothing to be compared with yet
                best[...] = challenger
                continue
            wins = ~((challenger <= best) | (best != best))  # greater than all before it, or the first NaN
            replace(best, wins, challenger)
            np.maximum(argmax[windows], wins * argmax.dtype.type(cell), out=argmax[windows])  # cells come in order

    in_parts(pool, x, y, argmax)
    return store(y, x.dtype, out), argmax


@np.errstate(all="ignore")
def max_pool2d_backward(
    dy, argmax, *, input_shape, kernel_size, stride=None, padding=0, fit="floor", out=None
):
    dx = separate(out, input_shape, accumulation_dtype(dy.dtype), dy, argmax)
    apart = all(step >= size for step, size in zip(stride, kernel_size))

    def spread(dy, argmax, dx):
        dx[...] = 0
        for cell, windows, inside in _cells(dx.shape[1:3], dy.shape[1:3], kernel_size, stride, padding):
            won = keep(dy[windows], argmax[windows] == cell)
            dx[inside] = won if apart else dx[inside] + won  # where windows lie apart, a cell belongs to one

    in_parts(spread, dy, argmax, dx)
    return store(dx, dy.dtype, out)


@np.errstate(all="ignore")
def avg_pool2d(x, *, kernel_size, stride=None, padding=0, count_include_pad=True, fit="floor", out=None):
    n, h, w, c = x.shape
    pq = output_hw((h, w), kernel_size, stride, padding, fit=fit)
    y = separate(out, (n, *pq, c), accumulation_dtype(x.dtype), x)
    counts = _counts((h, w), pq, kernel_size, stride, padding, count_include_pad, y.dtype)

    def average(x, y):
        y[...] = 0
        for _, windows, inside in _cells((h, w), pq, kernel_size, stride, padding):
            y[windows] += x[inside]
        y /= counts

    in_parts(average, x, y)
    return store(y, x.dtype, out)


@np.errstate(all="ignore")
def avg_pool2d_backward(
    dy, *, input_shape, kernel_size, stride=None, padding=0, count_include_pad=True, fit="floor", out=None
):
    hw, pq = input_shape[1:3], dy.shape[1:3]
    dx = separate(out, input_shape, accumulation_dtype(dy.dtype), dy)
    counts = _counts(hw, pq, kernel_size, stride, padding, count_include_pad, dx.dtype)

    def spread(dy, dx):
        dx[...] = 0
        share = widen(dy) / counts
        for _, windows, inside in _cells(hw, pq, kernel_size, stride, padding):
            dx[inside] += share[windows]

    in_parts(spread, dy, dx)
    return store(dx, dy.dtype, out)


@np.errstate(all="ignore")
def global_avg_pool2d(x, *, out=None):
    return store(x.mean(axis=(1, 2), keepdims=True, dtype=accumulation_dtype(x.dtype)), x.dtype, out)


def global_avg_pool2d_backward(dy, *, input_shape, out=None):
    dx = np.empty(input_shape, dy.dtype) if out is None else out
    return store(widen(dy) / (input_shape[1] * input_shape[2]), dy.dtype, dx)


# --- which windows read which cells ------------------------------------------------------------


def _cells(
    hw: Sequence[int], pq: Sequence[int], kernel_size: Pair, stride: Pair, padding: Padding
) -> Iterator[tuple[int, Region, Region]]:
    """For each cell r * S + s of the window, in rising order: the windows (n, p, q) whose cell lies inside the input,
    and those cells (n, h, w), slice for slice."""
    every = slice(None)
    for r in range(kernel_size[0]):
        p, h = overlap(hw[0], pq[0], r - padding[0][0], stride[0])
        for s in range(kernel_size[1]):
            q, w = overlap(hw[1], pq[1], s - padding[1][0], stride[1])
            yield r * kernel_size[1] + s, (every, p, q), (every, h, w)


def _first_inside(pq: Pair, kernel_size: Pair, stride: Pair, padding: Padding) -> np.ndarray:
    """(P, Q): the first cell r * S + s of each window that lies inside the input."""
    r, s = (np.maximum(0, padding[axis][0] - stride[axis] * np.arange(pq[axis])) for axis in (0, 1))
    return r[:, None] * kernel_size[1] + s


def _counts(
    hw: Sequence[int], pq: Sequence[int], kernel_size: Pair, stride: Pair, padding: Padding, count_include_pad: bool,
    dtype: np.dtype,
) -> np.ndarray:
    """(P, Q, 1): how many cells of each window count in its mean."""

    def along(axis: int) -> np.ndarray:
        before, after = padding[axis] if count_include_pad else (0, 0)
        start = stride[axis] * np.arange(pq[axis], dtype=dtype) - padding[axis][0]
        return np.minimum(start + kernel_size[axis], hw[axis] + after) - np.maximum(start, -before)

    return (along(0)[:, None] * along(1))[:, :, None]
