"""Sums of products over windows, the heart of all three directions of a convolution: what windows see is copied into a
matrix, a block at a time, and multiplied by the filters. Three other forms win by a measured margin:

strips  where channels and filters are few, and copying windows would cost more than multiplying (see `strips`);
lines   where filters are few beside the channels: a line of windows is copied once, not once for each row of a filter;
taps    where each filter reads one channel, and there is no matrix to multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.cores import in_parts, sum_in_order, sum_parts
from gpuconv.backends.reference.rounding import sum_rows, widen
from gpuconv.backends.reference.strips import fold_filters, in_strips, strip_width, widen_filters
from gpuconv.backends.reference.windows import Seen, Windows
from gpuconv.dtypes import accumulation_dtype

# Of the windows that a core copies for one product, measured: so many that they are still in its cache when they are
# multiplied, and many times the weights, which every product reads anew. Few weights are multiplied so fast that the
# time in Python between products would show.
LEAST_BLOCK_BYTES = 1 << 20
TIMES_WEIGHTS = 8
FEW_WEIGHTS_BYTES, LEAST_OF_FEW_WEIGHTS = 64 << 10, 4 << 20
MOST_BLOCK_BYTES = 8 << 20  # small beside the activations

MOST_SUMS = 1.0  # that a line of windows gives, for each channel copied of it


def correlate(x, filters, windows, y, bias=None, activation=None) -> None:
    """y[..., (g, k)] = act(bias[(g, k)] + sum over r, s, c of seen[..., r, s, (g, c)] * filters[g, r, s, c, k]), where
    seen is what the windows see of x, and ... stands for n, p, q."""
    _correlate(x, filters, windows, y, bias, activation)


def correlate_both(x, filters, windows, y, beside) -> np.ndarray:
    """`correlate`, and of the same copies the gradient to such filters: for an array `beside`, of y's shape,
    gradient[g, r, s, c, k] = sum over n, p, q of seen[..., r, s, (g, c)] * beside[..., (g, k)], in the accumulation
    dtype."""
    return _correlate(x, filters, windows, y, None, None, beside)


@np.errstate(all="ignore")  # infinities and NaN are results here, as on a GPU, not warnings
def _correlate(x, filters, windows, y, bias, activation, *beside) -> np.ndarray:
    filters, bias = widen(filters), None if bias is None else widen(bias)
    groups, _, _, channels, k = filters.shape
    width = strip_width(windows, channels, k, groups) if y.flags.c_contiguous else 1
    form = partial(_products, x, activation=activation, lines=not beside and in_lines(filters, windows))
    if width > 1:
        wide_bias = None if bias is None else np.concatenate([bias] * width)
        strips = [in_strips(array, width) for array in (y, *beside)]
        wide = widen_filters(filters, windows, width)
        gradient = form(wide, windows.strips(width), wide_bias, *strips, finite=True)
        if gradient is not None:
            return fold_filters(gradient, windows, width) if beside else gradient
    # A wide filter has zeros beside its taps, which turn a neighbour's infinity into NaN.
    return form(filters, windows, bias, y, *beside)


def in_lines(filters: np.ndarray, windows: Windows) -> bool:
    """Whether `correlate` copies lines, for filters (G, R, S, C, K) that are few beside their channels."""
    groups, r, _, channels, k = filters.shape
    return groups == windows.stride[0] == 1 < r and r * k <= MOST_SUMS * channels


def _products(x, filters, windows, bias, y, *beside, activation, lines, finite=False) -> Any:
    """`_correlate` with these very filters; without `beside` what is returned means nothing. finite: stop, and return
    None, where a number of y is infinite or NaN."""
    groups, r, s, channels, k = filters.shape
    weights = filters.reshape(groups, r * s * channels, k)
    if bias is not None:  # one weight more, of an input that is always 1
        weights = np.concatenate([weights, bias.reshape(groups, 1, k)], axis=1)
    product, add_gradient = _matrix_product, _add_matrix_gradient
    columns, budget = weights.shape[1], _block_bytes(weights)
    if (channels, k) == (1, 1):
        product, add_gradient = _taps, _add_taps_gradient
    elif lines:
        product, columns, budget = partial(_lines, windows.dilation[0]), s * channels, r * budget

    def prepare(x, y, *beside):
        gradient = np.zeros(weights.shape if beside else 1, weights.dtype)
        return _Blocks(x, windows, budget), _Matrices(groups, columns), gradient, y, *beside

    def write(blocks, matrices, gradient, y, *beside):
        for images, rows, seen in blocks:
            part = y[images, rows]
            in_place = part.dtype == weights.dtype and part.flags.c_contiguous
            result = part if in_place else np.empty(part.shape, weights.dtype)
            product(seen, weights, result, matrices)
            if finite and not np.isfinite(np.vdot(result, result)):  # squares of huge numbers count as infinite too
                return None
            for other in beside:
                add_gradient(widen(other[images, rows]), seen, gradient, matrices)
            if activation is not None:
                getattr(activations, activation)(result, out=result)
            if not in_place:
                part[...] = result
        return gradient

    gradients = in_parts(write, x, y, *beside, nbytes=windows.copied_bytes(x), prepare=prepare)
    if any(gradient is None for gradient in gradients):
        return None
    return sum_in_order(gradients).reshape(filters.shape if beside else 1)


@np.errstate(all="ignore")
def correlate_gradient(dy, x, windows, groups) -> tuple[np.ndarray, np.ndarray]:
    """dw[g, r, s, c, k] = sum over n, p, q of seen[..., r, s, (g, c)] * dy[..., (g, k)], and db[(g, k)] = sum of
    dy[..., (g, k)], the gradient to a weight of an input that is always 1: both in the accumulation dtype."""
    k, channels = dy.shape[3] // groups, x.shape[3] // groups
    width = strip_width(windows, channels, k, groups)
    seen_by = windows.strips(width) if width > 1 else windows
    gradient = _gradient(in_strips(dy, width), x, seen_by, groups)
    dw = gradient[..., :-1].reshape(groups, width * k, *seen_by.kernel_size, channels).transpose(0, 2, 3, 4, 1)
    db = gradient[..., -1].reshape(width, groups * k).sum(0)
    return fold_filters(dw, windows, width) if width > 1 else dw, db


def _gradient(dy, x, windows, groups) -> np.ndarray:
    """dw[g, k, (r, s, c)], and db in one column more."""
    k, channels, accumulator = dy.shape[3] // groups, x.shape[3] // groups, accumulation_dtype(x.dtype)
    columns = math.prod(windows.kernel_size) * channels + 1
    add_gradient = _add_taps_gradient if channels == k == 1 else _add_matrix_gradient

    def prepare(dy, x):
        dw = np.zeros((groups, k, columns), accumulator)
        return dy, _Blocks(x, windows, _block_bytes(dw)), _Matrices(groups, columns), dw

    def gradient(dy, blocks, matrices, dw):
        for images, rows, seen in blocks:
            add_gradient(widen(dy[images, rows]), seen, dw.transpose(0, 2, 1), matrices)
        return dw

    return sum_parts(gradient, dy, x, nbytes=windows.copied_bytes(x), prepare=prepare)


class _Blocks:
    """What the windows of x see, in blocks for one product each, the largest first: several images where their copies
    are small enough, else some rows p of one, but always one row. Gives a block's images, its rows and what is seen."""

    def __init__(self, x: np.ndarray, windows: Windows, budget: int) -> None:
        self.rows, image_bytes = windows.count[0], max(1, windows.copied_bytes(x[:1]))
        self.depth = max(1, min(len(x), budget // image_bytes))
        self.height = max(1, min(self.rows, budget * self.rows // image_bytes))
        self.seen = Seen(windows, x, self.depth)

    def __iter__(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        for n in range(0, len(self.seen.x), self.depth):
            images = slice(n, min(n + self.depth, len(self.seen.x)))
            seen = self.seen.of(images)
            for p in range(0, self.rows, self.height):
                yield images, slice(p, min(p + self.height, self.rows)), seen[:, p : p + self.height]


def _block_bytes(weights: np.ndarray) -> int:
    """How many bytes of windows to copy for one product with these weights."""
    least = LEAST_OF_FEW_WEIGHTS if weights.nbytes < FEW_WEIGHTS_BYTES else LEAST_BLOCK_BYTES
    return min(MOST_BLOCK_BYTES, max(least, TIMES_WEIGHTS * weights.nbytes))


class _Matrices:
    """For each group a matrix with a row for each window (n, p, q) and a column for each (r, s, c), and a column of
    ones where one more is wanted. The windows are copied into one room, which the first, largest block makes, unless
    they lie in memory like that already, as those of 1 x 1 filters may."""

    def __init__(self, groups: int, columns: int) -> None:
        self.groups, self.columns = groups, columns
        self.room: np.ndarray | None = None
        self.seen: np.ndarray | None = None  # what it holds now

    def of(self, seen: np.ndarray) -> np.ndarray:
        n, p, q, r, s, channels = seen.shape
        height, width = n * p * q, r * s * channels // self.groups
        by_group = seen.reshape(n, p, q, r, s, self.groups, channels // self.groups).transpose(5, 0, 1, 2, 3, 4, 6)
        if r == s == 1 and width == self.columns:
            return by_group.reshape(self.groups, height, width)
        if self.room is None:
            self.room = np.empty((self.groups, height, self.columns), seen.dtype)
            self.room[:, :, width:] = 1
        matrices = self.room[:, :height]
        if self.seen is not seen:  # a second product of one block finds it here
            matrices[:, :, :width].reshape(by_group.shape, copy=False)[...] = by_group
            self.seen = seen
        return matrices


def _matrix_product(seen, weights, y, matrices) -> None:
    groups, _, k = weights.shape
    by_group = y.reshape(math.prod(y.shape[:3]), groups, k).transpose(1, 0, 2)
    np.matmul(matrices.of(seen), weights, out=by_group)


def _add_matrix_gradient(beside, seen, gradient, matrices) -> None:
    groups, _, k = gradient.shape
    by_group = beside.reshape(math.prod(beside.shape[:3]), groups, k).transpose(1, 0, 2)
    gradient += np.matmul(matrices.of(seen).transpose(0, 2, 1), by_group, out=np.empty_like(gradient))


def _lines(dilation, seen, weights, y, matrices) -> None:
    """For few filters: each line of windows is copied for one row r only, and multiplied by the taps of all rows. Of
    the R sums that a line gives, each belongs to another output row."""
    n, p, q, r, s, channels = seen.shape
    k, height = weights.shape[2], p + (r - 1) * dilation
    at_n, at_line, at_q, _, at_s, at_c = seen.strides
    lines = np.lib.stride_tricks.as_strided(
        seen, (n, height, q, 1, s, channels), (at_n, at_line, at_q, 0, at_s, at_c), writeable=False
    )
    taps, bias = weights[0, : r * s * channels], weights[0, r * s * channels :].sum(0)
    taps = taps.reshape(r, s * channels, k).transpose(1, 0, 2).reshape(s * channels, r * k)
    sums = (matrices.of(lines)[0] @ taps).reshape(n, height, q, r, k)
    np.add(sums[:, :p, :, 0], bias, out=y)
    for row in range(1, r):
        y += sums[:, row * dilation : row * dilation + p, :, row]


def _taps(seen, weights, y, matrices) -> None:
    """Depthwise: each filter reads the channel of its own number, so a tap scales the whole shifted volume."""
    taps = list(np.ndindex(seen.shape[3:5]))
    y[...] = weights[:, len(taps) :, 0].sum(1)  # the bias, if any
    for (r, s), weight in zip(taps, weights[:, :, 0].T):
        y += seen[:, :, :, r, s] * weight


def _add_taps_gradient(beside, seen, gradient, matrices) -> None:
    taps = list(np.ndindex(seen.shape[3:5]))
    for row, (r, s) in enumerate(taps):
        gradient[:, row, 0] += sum_rows(beside * seen[:, :, :, r, s])
    for row in range(len(taps), gradient.shape[1]):  # the bias's, if any
        gradient[:, row, 0] += sum_rows(beside)
