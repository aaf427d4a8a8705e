"""Convolutions. All three directions are matrix products with im2col matrices, a block of the batch at a time.

fprop   y  = im2col(x) @ w           im2col(x) has a row for each output pixel and a column for each (r, s, c)
wgrad   dw = dy^T @ im2col(x)
dgrad   dx = im2col(dy) @ flipped w  once for each phase of the stride (see `_phases`)
both    dx as in dgrad, and flipped dw = im2col(dy)^T @ x, from the same im2col(dy)

`correlate` chooses the form of the matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cpu import activation as activations
from gpuconv.backends.cpu.correlate import correlate, correlate_both, correlate_gradient, suits_row_reuse
from gpuconv.backends.cpu.im2col import Windows, windows_of
from gpuconv.backends.cpu.pool import max_pool2d
from gpuconv.backends.cpu.precision import buffer, factors, store, sum_rows, widen
from gpuconv.backends.cpu.select import keep
from gpuconv.dtypes import accumulation_dtype
from gpuconv.problems import PLAIN, Conv2dProblem, Pool2dProblem

# Limits for computing dw from the windows of dy, measured:
MOST_CELLS = 4 / 3  # cells of x per cell of y
MOST_CHANNELS = 1 / 3  # channels of x per channel of y; up to this, computing dx and dw separately is faster


def conv2d(x, w, bias, problem, epilogue, *, algo, tf32, out):
    x, w = factors(tf32, x, w)
    y = buffer(out, problem.y_shape, x.dtype)
    k, *taps_channels = w.shape
    filters = w.reshape(problem.groups, k // problem.groups, *taps_channels).transpose(0, 2, 3, 4, 1)
    correlate(x, filters, windows_of(problem), y, bias, epilogue.activation)
    return store(y, x.dtype, out)


def conv2d_relu(x, w, bias, problem, epilogue, *, algo, tf32, out):
    if epilogue.saves_input:
        before = conv2d(x, w, bias, problem, PLAIN, algo=algo, tf32=tf32, out=None)
        return ACTIVATIONS[epilogue.activation].apply(activations, before, out=out), before
    y = conv2d(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=None)
    y, argmax = max_pool2d(y, Pool2dProblem.of(y.shape, epilogue.pool), out=None)
    passes = argmax[..., None] == np.arange(epilogue.pool**2)
    if epilogue.activation is not None:
        passes &= (y > 0)[..., None]
    return store(y, x.dtype, out), _packed(passes, problem.groups)


def conv2d_dgrad(dy, w, problem, epilogue, *, mask, algo, tf32, out, accumulate):
    dx = _buffer_of_dx(out, problem, dy.dtype, accumulate)
    dy, w = factors(tf32, gradient_before_mask(dy, mask, problem, epilogue.pool), w)
    _correlate_back(dy, _filters_back(w, problem.groups), windows_of(problem), dx)
    return store(dx, dy.dtype, out, accumulate)


def conv2d_wgrad(dy, x, problem, epilogue, *, mask, algo, tf32, out, db, accumulate):
    dy = gradient_before_mask(dy, mask, problem, epilogue.pool)
    dy_factors, x_factors = factors(tf32, dy, x)
    gradient, sums = correlate_gradient(dy_factors, x_factors, windows_of(problem), problem.groups)
    if db is not None:
        store(sum_rows(dy) if tf32 else sums, dy.dtype, db, accumulate)
    return store(_as_filters(gradient), x.dtype, out, accumulate)


def conv2d_backward(dy, x, w, problem, epilogue, *, mask, algos, tf32, out, accumulate_dx, dw, db, accumulate):
    windows, groups = windows_of(problem), problem.groups
    dx = _buffer_of_dx(out, problem, x.dtype, accumulate_dx)
    dy = gradient_before_mask(dy, mask, problem, epilogue.pool)
    dy_factors, x_factors, w = factors(tf32, dy, x, w)
    filters, gradient, sums = _filters_back(w, groups), None, None
    if _shares_copies(filters, windows, problem):
        gradient = _correlate_both_back(dy_factors, filters, windows, dx, x_factors)
    else:
        _correlate_back(dy_factors, filters, windows, dx)
    # Windows of dy beyond the border contain zeros, which turn an infinity in x into NaN; then dw is computed from the
    # windows of x.
    if gradient is None or not np.isfinite(gradient).all():
        gradient, sums = correlate_gradient(dy_factors, x_factors, windows, groups)
        gradient = _as_filters(gradient)
    if db is not None:
        store(sum_rows(dy) if sums is None or tf32 else sums, dy.dtype, db, accumulate)
    return store(dx, x.dtype, out, accumulate_dx), store(gradient, x.dtype, dw, accumulate)


def bias_grad(dy, saved, *, activation, out, accumulate):
    dz = dy if activation is None else ACTIVATIONS[activation].gradient(activations, widen(dy), widen(saved))
    return store(sum_rows(dz), dy.dtype, out, accumulate)


# --- masks -------------------------------------------------------------------------------------


def _packed(passes: np.ndarray, groups: int) -> np.ndarray:
    """The mask of conv2d_relu: passes[n, p, q, k, j] as bits, padded to whole bytes for each group."""
    n, p, q, k, pixels = passes.shape
    packed = np.packbits(passes.reshape(n, p, q, groups, k // groups * pixels), -1, "little")
    return packed.reshape(n, p, q, groups * packed.shape[4])


def gradient_before_mask(dy: np.ndarray, mask: np.ndarray | None, problem: Conv2dProblem, pool: int) -> np.ndarray:
    """The gradient of the convolution's own output, (N, P, Q, K): each number of dy is placed at the pixel that the
    mask selects, if it selects one."""
    if mask is None:
        return dy
    (n, p, q, k), groups = dy.shape, problem.groups
    bytes_a_group = mask.reshape(n, p, q, groups, mask.shape[3] // groups)
    bits = np.unpackbits(bytes_a_group, axis=-1, count=k // groups * pool**2, bitorder="little")
    passes = bits.reshape(n, p, q, k, pool, pool)
    found = np.zeros(problem.y_shape, dy.dtype)
    for row, column in np.ndindex(pool, pool):
        pixels = found[:, row : p * pool : pool, column : q * pool : pool]
        pixels[...] = keep(dy, passes[..., row, column])
    return found


def _as_filters(gradient: np.ndarray) -> np.ndarray:
    """(groups, R, S, C // groups, K // groups) -> (K, R, S, C // groups)."""
    groups, *taps_channels, k = gradient.shape
    return gradient.transpose(0, 4, 1, 2, 3).reshape(groups * k, *taps_channels)


# --- backward ------------------------------------------------------------------------------


def _buffer_of_dx(out: np.ndarray | None, problem: Conv2dProblem, dtype: np.dtype, accumulate: bool) -> np.ndarray:
    """The array to compute dx in: if `accumulate`, a new one in the accumulation dtype; else `out` if possible."""
    return np.empty(problem.x_shape, accumulation_dtype(dtype)) if accumulate else buffer(out, problem.x_shape, dtype)


def _filters_back(w: np.ndarray, groups: int) -> np.ndarray:
    """(K, R, S, C // groups) -> (groups, R, S, K // groups, C // groups): filters from dy's channels to dx's."""
    k, *taps_channels = w.shape
    return w.reshape(groups, k // groups, *taps_channels).transpose(0, 2, 3, 1, 4)


def _correlate_back(dy, filters, windows, dx) -> None:
    """Write dx, given the filters of `_filters_back` and the windows of fprop."""
    for cells, taps, windows_of_dy in _phases(filters, windows, dx):
        correlate(dy, filters[taps], windows_of_dy, dx[cells])


def _shares_copies(filters: np.ndarray, windows: Windows, problem: Conv2dProblem) -> bool:
    """Whether dw is faster to compute from the windows of dy, which dx needs anyway, than from those of x.

    From dy's windows, dw is a sum over the cells of x. From x's windows, it is a sum over the cells of y, which are
    fewer without padding. If x has few channels, copying its windows is cheap; dx is then computed separately and can
    use row reuse, which copies even less."""
    fewer_cells = problem.h * problem.w <= MOST_CELLS * problem.p * problem.q
    worth_it = problem.stride == (1, 1) and fewer_cells
    return worth_it and not suits_row_reuse(filters, windows, MOST_CHANNELS)


def _correlate_both_back(dy, filters, windows, dx, x) -> np.ndarray:
    """Write dx as `_correlate_back` does, and return dw, from the same windows of dy: dw[k, r, s, c] = sum over n, h, w
    of x[n, h, w, c] * dy[n, p, q, k], where (p, q) reads (h, w) through tap (r, s)."""
    groups, r, s, k, channels = filters.shape
    dw = np.zeros((groups, k, r, s, channels), accumulation_dtype(x.dtype))
    gradient = dw.transpose(0, 2, 3, 1, 4)  # laid out as the filters are
    for cells, taps, windows_of_dy in _phases(filters, windows, dx):
        gradient[taps] = correlate_both(dy, filters[taps], windows_of_dy, dx[cells], x[cells])
    return dw.reshape(groups * k, r, s, channels)


def _phases(filters, windows, dx) -> Iterator[tuple[tuple, tuple, Windows]]:
    """For each phase of the stride: its cells of dx, the filter taps that read them, and the windows of dy.

    Stride 1: dx is fprop of dy with flipped filters and exchanged input and output channels.

    Stride > 1: the cells h = a, a + stride, a + 2 stride, ... are read through the same taps. For each such phase a, dx
    is a stride-1 fprop of dy with only those taps. No tap belongs to two phases.
    """
    stride_h, stride_w = windows.stride
    for a in range(min(stride_h, dx.shape[1])):
        for b in range(min(stride_w, dx.shape[2])):
            taps_h, start_h, dilation_h = _phase(a, 0, windows)
            taps_w, start_w, dilation_w = _phase(b, 1, windows)
            cells, taps = np.s_[:, a::stride_h, b::stride_w], np.s_[:, taps_h, taps_w]
            count, used = dx[cells].shape[1:3], filters[taps].shape[1:3]
            yield cells, taps, Windows(count, used, (1, 1), (dilation_h, dilation_w), (start_h, start_w))


def _phase(cell: int, axis: int, windows: Windows) -> tuple[slice, int, int]:
    """The outputs p and taps r that read the cells at cell, cell + stride, ... along an axis.

    Output p reads the cell start + p * stride + r * dilation through tap r, so r * dilation = cell - start modulo
    stride. Let g be the greatest common divisor of stride and dilation. From one such r to the next, r increases by
    `every` = stride / g, and p decreases by dilation / g.

    Returns the taps r, in descending order as p ascends, the first p, and the step of p.
    """
    position, taps = cell - windows.start[axis], windows.kernel_size[axis]
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    common = math.gcd(stride, dilation)
    every, step = stride // common, dilation // common
    first = next((r for r in range(min(every, taps)) if (position - r * dilation) % stride == 0), taps)
    used = range(first, taps, every)
    if not used:
        return slice(0, 0), 0, step
    return slice(used[-1], first - 1 if first else None, -every), (position - used[-1] * dilation) // stride, step
