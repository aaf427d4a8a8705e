"""Pooling: one pass over the volume for each cell (r, s) of the window, through strided slices.

The slices contain only windows whose cell (r, s) lies inside the input. This handles padding, partial last windows and
dropped borders.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.backends.cpu.im2col import windows_inside
from gpuconv.backends.cpu.parallel import in_parts
from gpuconv.backends.cpu.precision import buffer, store, widen
from gpuconv.backends.cpu.select import keep, replace
from gpuconv.dtypes import accumulation_dtype
from gpuconv.problems import Pool2dProblem
from gpuconv.types import Pair

Region = tuple[slice, slice, slice]


def max_pool2d(x, problem, *, out):
    y = buffer(out, problem.y_shape, x.dtype)
    argmax = np.empty(y.shape, problem.argmax_dtype)

    def pool(x, y, argmax):
        y[...] = -np.inf
        argmax[...] = _first_inside(problem)[:, :, None]
        for cell, windows, inside in _cells(problem):
            best = y[windows]
            challenger = np.ascontiguousarray(x[inside])  # copied once, because NumPy is slow on short rows
            if cell == 0 and best.shape == y.shape:  # the first cell has nothing to be compared with
                best[...] = challenger
                continue
            wins = ~((challenger <= best) | (best != best))  # greater than all cells before it, or the first NaN
            replace(best, wins, challenger)
            np.maximum(argmax[windows], wins * argmax.dtype.type(cell), out=argmax[windows])  # cells ascend

    in_parts(pool, x, y, argmax)
    return store(y, x.dtype, out), argmax


def max_pool2d_backward(dy, argmax, problem, *, out):
    dx = buffer(out, problem.x_shape, accumulation_dtype(dy.dtype))
    disjoint = all(step >= size for step, size in zip(problem.stride, problem.kernel_size))

    def spread(dy, argmax, dx):
        dx[...] = 0
        for cell, windows, inside in _cells(problem):
            won = keep(dy[windows], argmax[windows] == cell)
            dx[inside] = won if disjoint else dx[inside] + won  # disjoint windows share no cell

    in_parts(spread, dy, argmax, dx)
    return store(dx, dy.dtype, out)


def avg_pool2d(x, problem, *, count_include_pad, out):
    y = buffer(out, problem.y_shape, accumulation_dtype(x.dtype))
    counts = _counts(problem, count_include_pad, y.dtype)

    def average(x, y):
        y[...] = 0
        for _, windows, inside in _cells(problem):
            y[windows] += x[inside]
        y /= counts

    in_parts(average, x, y)
    return store(y, x.dtype, out)


def avg_pool2d_backward(dy, problem, *, count_include_pad, out):
    dx = buffer(out, problem.x_shape, accumulation_dtype(dy.dtype))
    counts = _counts(problem, count_include_pad, dx.dtype)

    def spread(dy, dx):
        dx[...] = 0
        share = widen(dy) / counts
        for _, windows, inside in _cells(problem):
            dx[inside] += share[windows]

    in_parts(spread, dy, dx)
    return store(dx, dy.dtype, out)


def global_avg_pool2d(x, *, out):
    return store(x.mean(axis=(1, 2), keepdims=True, dtype=accumulation_dtype(x.dtype)), x.dtype, out)


def global_avg_pool2d_backward(dy, *, input_shape, out):
    dx = np.empty(input_shape, dy.dtype) if out is None else out
    return store(widen(dy) / max(1, input_shape[1] * input_shape[2]), dy.dtype, dx)


# --- which windows read which cells ------------------------------------------------------------


def _cells(problem: Pool2dProblem) -> Iterator[tuple[int, Region, Region]]:
    """For each cell r * S + s of the window, in ascending order: slices of the windows (n, p, q) whose cell lies inside
    the input, and of those cells (n, h, w)."""
    every, ((top, _), (left, _)) = slice(None), problem.padding
    for r in range(problem.r):
        p, h = windows_inside(problem.h, problem.p, r - top, problem.stride[0])
        for s in range(problem.s):
            q, w = windows_inside(problem.w, problem.q, s - left, problem.stride[1])
            yield r * problem.s + s, (every, p, q), (every, h, w)


def _first_inside(problem: Pool2dProblem) -> np.ndarray:
    """(P, Q): for each window, the first of its cells r * S + s that lies inside the input."""
    (top, _), (left, _) = problem.padding
    r = np.maximum(0, top - problem.stride[0] * np.arange(problem.p))
    s = np.maximum(0, left - problem.stride[1] * np.arange(problem.q))
    return r[:, None] * problem.s + s


def _counts(problem: Pool2dProblem, count_include_pad: bool, dtype: np.dtype) -> np.ndarray:
    """(P, Q, 1): the number of cells in each window's mean."""

    def along(size: int, kernel: int, count: int, stride: int, padding: Pair) -> np.ndarray:
        before, after = padding if count_include_pad else (0, 0)
        start = stride * np.arange(count, dtype=dtype) - padding[0]
        return np.minimum(start + kernel, size + after) - np.maximum(start, -before)

    vertical = along(problem.h, problem.r, problem.p, problem.stride[0], problem.padding[0])
    horizontal = along(problem.w, problem.s, problem.q, problem.stride[1], problem.padding[1])
    return (vertical[:, None] * horizontal)[:, :, None]
