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

import numpy as np

from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.cores import in_parts, sum_parts
from gpuconv.backends.reference.rounding import sum_rows, widen
from gpuconv.backends.reference.strips import fold_filters, in_strips, strip_width, widen_filters
from gpuconv.backends.reference.windows import Windows
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
    filters, bias = widen(filters), None if bias is None else widen(bias)
    groups, r, _, channels, k = filters.shape
    few = r * k <= MOST_SUMS * channels
    width = strip_width(windows, channels, k, groups) if y.flags.c_contiguous else 1
    with np.errstate(all="ignore"):  # infinities and NaN are results here, as on a GPU, not warnings
        if width > 1:
            wide_bias = None if bias is None else np.concatenate([bias] * width)
            wide, strips = widen_filters(filters, windows, width), in_strips(y, width)
            if _products(x, wide, windows.strips(width), strips, wide_bias, activation, few, finite=True):
                return
        # A wide filter has zeros beside its taps, which turn a neighbour's infinity into NaN.
        _products(x, filters, windows, y, bias, activation, few)


def _products(x, filters, windows, y, bias, activation, few=False, finite=False) -> bool:
    """`correlate` with these very filters. few: they are few beside their channels. finite: only where all numbers
    are; returns whether it is done."""
    groups, r, s, channels, k = filters.shape
    weights = filters.reshape(groups, r * s * channels, k)
    if bias is not None:  # one weight more, of an input that is always 1
        weights = np.concatenate([weights, bias.reshape(groups, 1, k)], axis=1)
    product, columns, budget = _matrix_product, weights.shape[1], _block_bytes(weights)
    if (channels, k) == (1, 1):
        product = _taps
    elif few and groups == windows.stride[0] == 1 < r:
        product, columns, budget = partial(_lines, windows.dilation[0]), s * channels, r * budget

    def write(x, y):
        if finite and x.size < y.size and not np.isfinite(x.sum(dtype=weights.dtype)):
            return False
        matrices = _Matrices(groups, columns)
        for images, rows, seen in _blocks(x, windows, budget):
            part = y[images, rows]
            in_place = part.dtype == weights.dtype and part.flags.c_contiguous
            result = part if in_place else np.empty(part.shape, weights.dtype)
            product(seen, weights, result, matrices)
            if activation is not None:
                getattr(activations, activation)(result, out=result)
            if not in_place:
                part[...] = result
        return not finite or x.size < y.size or np.isfinite(y.sum(dtype=weights.dtype))

    return all(in_parts(write, x, y, nbytes=windows.copied_bytes(x)))


def correlate_gradient(dy, x, windows, groups) -> tuple[np.ndarray, np.ndarray]:
    """dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * seen[n, p, q, r, s, c], and db[k] = sum of dy[n, p, q, k],
    the gradient to a weight of an input that is always 1: both in the accumulation dtype."""
    k, channels = dy.shape[3], x.shape[3] // groups
    width = strip_width(windows, channels, k, groups)
    seen_by = windows.strips(width) if width > 1 else windows
    gradient = _gradient(in_strips(dy, width), x, seen_by, groups)
    dw = gradient[:, :-1].reshape(width * k, *seen_by.kernel_size, channels)
    return fold_filters(dw, windows, width) if width > 1 else dw, gradient[:, -1].reshape(width, k).sum(0)


def _gradient(dy, x, windows, groups) -> np.ndarray:
    """dw[k, (r, s, c)], and db in one column more."""
    k, channels, accumulator = dy.shape[3], x.shape[3] // groups, accumulation_dtype(x.dtype)
    columns = math.prod(windows.kernel_size) * channels + 1
    product = _taps_gradient if channels == 1 and k == groups else _matrix_product_gradient

    def gradient(dy, x):
        dw, matrices = np.zeros((k, columns), accumulator), _Matrices(groups, columns)
        for images, rows, seen in _blocks(x, windows, _block_bytes(dw)):
            product(widen(dy[images, rows]), seen, dw, matrices)
        return dw

    with np.errstate(all="ignore"):
        return sum_parts(gradient, dy, x, nbytes=windows.copied_bytes(x))


def _blocks(x: np.ndarray, windows: Windows, budget: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """What the windows of x see, in blocks for one product each, the largest first: several images where their copies
    are small enough, else some rows p of one, but always one row. Yields its images, its rows and what is seen."""
    rows, image_bytes = windows.count[0], max(1, windows.copied_bytes(x[:1]))
    depth = max(1, min(len(x), budget // image_bytes))
    height = max(1, min(rows, budget * rows // image_bytes))
    padded = windows.padded(depth, x)
    for n in range(0, len(x), depth):
        images = slice(n, min(n + depth, len(x)))
        seen = windows.of(x[images], padded)
        for p in range(0, rows, height):
            yield images, slice(p, min(p + height, rows)), seen[:, p : p + height]


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
        matrices[:, :, :width].reshape(by_group.shape, copy=False)[...] = by_group
        return matrices


def _matrix_product(seen, weights, y, matrices) -> None:
    groups, _, k = weights.shape
    by_group = y.reshape(math.prod(y.shape[:3]), groups, k).transpose(1, 0, 2)
    np.matmul(matrices.of(seen), weights, out=by_group)


def _matrix_product_gradient(dy, seen, dw, matrices) -> None:
    by_group = dy.reshape(math.prod(dy.shape[:3]), matrices.groups, len(dw) // matrices.groups).transpose(1, 2, 0)
    dw += (by_group @ matrices.of(seen)).reshape(dw.shape)


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


def _taps_gradient(dy, seen, dw, matrices) -> None:
    for column, (r, s) in enumerate(np.ndindex(seen.shape[3:5])):
        dw[:, column] += sum_rows(dy * seen[:, :, :, r, s])
    dw[:, -1] += sum_rows(dy)
