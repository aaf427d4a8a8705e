"""The sum of products over windows, the core of all three directions of a convolution: the windows are copied into a
matrix, one block at a time, and multiplied by the filters. Three other forms were measured to be faster in some cases:

wide_filters  for few channels and filters, where copying the windows would take longer than multiplying them;
row_reuse     copies each row of a map once, not once for each row of taps. It is for filters of several rows without
              groups, a vertical stride of 1, not many more filters than channels, and maps that are not too large. It
              computes no gradient. Wide filters can use it, too;
Taps          (in block_gemm) for depthwise filters, one for each channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cpu import activation as activations
from gpuconv.backends.cpu.block_gemm import Matrix, Taps
from gpuconv.backends.cpu.im2col import Im2colView, Windows
from gpuconv.backends.cpu.parallel import in_parts, sum_in_order, sum_parts
from gpuconv.backends.cpu.precision import widen
from gpuconv.backends.cpu.row_reuse import RowReuse, one_row_filters
from gpuconv.backends.cpu.wide_filters import fold_filters, group_outputs, group_width, widen_filters
from gpuconv.dtypes import accumulation_dtype

# Bytes of windows that a core copies for one product, as measured: few enough to stay in its cache until the product,
# and many times the bytes of the weights, which every product reads again. With few weights, products are so short that
# the time in Python between them matters, so blocks are larger.
LEAST_BLOCK_BYTES = 1 << 20
TIMES_WEIGHTS = 8
FEW_WEIGHTS_BYTES, LEAST_OF_FEW_WEIGHTS = 64 << 10, 4 << 20
MOST_BLOCK_BYTES = 8 << 20  # small compared with the activations

ROW_REUSE_BYTES = 3 << 20  # bytes of copied rows for one product (measured); its sums take about as many bytes
MOST_FILTERS = 1.5  # row reuse is faster up to this number of filters per channel: measured


def correlate(x, filters, windows, y, bias=None, activation=None) -> None:
    """y[..., (g, k)] = act(bias[(g, k)] + sum over r, s, c of view[..., r, s, (g, c)] * filters[g, r, s, c, k]), where
    view is the im2col view of x, and ... stands for n, p, q."""
    _correlate(x, filters, windows, y, bias, activation)


def correlate_both(x, filters, windows, y, other) -> np.ndarray:
    """Like `correlate`; also returns a gradient of the filters from the same copies, with `other` (y's shape) as dy:
    gradient[g, r, s, c, k] = sum over n, p, q of view[..., r, s, (g, c)] * other[..., (g, k)], in the accumulation
    dtype."""
    return _correlate(x, filters, windows, y, None, None, other)


def _correlate(x, filters, windows, y, bias, activation, *others):
    filters = widen(filters)
    bias = None if bias is None else widen(bias)
    products = partial(_in_chosen_form, x, activation=activation)
    groups, _, _, channels, k = filters.shape
    width = group_width(windows, channels, k, groups) if y.flags.c_contiguous else 1
    if width > 1:
        wide_bias = None if bias is None else np.concatenate([bias] * width)
        grouped = [group_outputs(array, width) for array in (y, *others)]
        wide = widen_filters(filters, windows, width)
        try:
            gradient = products(wide, windows.widened(width), wide_bias, *grouped, finite=True)
            return fold_filters(gradient, windows, width) if others else None
        except _NotFinite:  # a wide filter pads its taps with zeros, which turn a neighbor's infinity into NaN
            pass
    return products(filters, windows, bias, y, *others)


class _NotFinite(Exception):
    pass


def _in_chosen_form(x, filters, windows, bias, y, *others, **options) -> np.ndarray:
    """`_products` in the fastest form for these filters."""
    options["nbytes"] = windows.copied_bytes(x)
    by_row = windows.by_row(x.shape[1])
    if not others and suits_row_reuse(filters, windows, MOST_FILTERS) and by_row.copied_bytes(x[:1]) <= ROW_REUSE_BYTES:
        form = partial(RowReuse, windows, x.shape[1], bias)
        return _products(form, x, one_row_filters(filters), by_row, None, y, block=ROW_REUSE_BYTES, **options)
    plain = Taps if filters.shape[3:] == (1, 1) else Matrix
    return _products(plain, x, filters, windows, bias, y, *others, **options)


def suits_row_reuse(filters: np.ndarray, windows: Windows, most: float) -> bool:
    """Whether row reuse can apply filters (G, R, S, C, K), and there are at most `most` of them per channel."""
    groups, r, _, channels, k = filters.shape
    possible = groups == 1 and r > 1 and windows.stride[0] == 1
    return possible and k <= most * channels


def _products(form, x, filters, windows, bias, y, *others, activation, nbytes, block=None, finite=False):
    """`_correlate` in the given form, without `widen_filters`.

    nbytes: the bytes of the windows that `Matrix` would copy; they determine how the batch is split in every form.
    block: bytes of windows for one product; by default it depends on the size of the filters.
    finite: raise _NotFinite if a number of y is infinite or NaN.
    """
    groups, r, s, channels, k = filters.shape
    weights = filters.reshape(groups, r * s * channels, k)
    if bias is not None:  # one more weight, for an input that is always 1
        weights = np.concatenate([weights, bias.reshape(groups, 1, k)], axis=1)

    def prepare(x, y, *others):
        gradient = np.zeros(weights.shape, weights.dtype) if others else None
        return _Blocks(x, windows, block or _block_bytes(weights)), form(), gradient, y, *others

    def write(blocks, form, gradient, y, *others):
        for images, rows, view in blocks:
            part = y[images, rows]
            in_place = part.dtype == weights.dtype and part.flags.c_contiguous
            result = part if in_place else np.empty(part.shape, weights.dtype)
            form.multiply(view, weights, result)
            if finite and not np.isfinite(np.vdot(result, result)):  # overflowing squares also raise it
                raise _NotFinite
            for other in others:
                form.add_gradient(view, widen(other[images, rows]), gradient)
            if activation is not None:
                ACTIVATIONS[activation].apply(activations, result, out=result)
            if not in_place:
                part[...] = result
        return gradient

    gradients = in_parts(write, x, y, *others, nbytes=nbytes, prepare=prepare)
    return sum_in_order(gradients).reshape(filters.shape) if others else None


def correlate_gradient(dy, x, windows, groups) -> tuple[np.ndarray, np.ndarray]:
    """dw[g, r, s, c, k] = sum over n, p, q of view[..., r, s, (g, c)] * dy[..., (g, k)], and db[(g, k)] = sum of
    dy[..., (g, k)], as the gradient of a weight whose input is always 1; both in the accumulation dtype."""
    k, channels = dy.shape[3] // groups, x.shape[3] // groups
    width = group_width(windows, channels, k, groups)
    grouped = windows.widened(width) if width > 1 else windows
    gradient = _gradient(group_outputs(dy, width), x, grouped, groups)
    dw = gradient[..., :-1].reshape(groups, width * k, *grouped.kernel_size, channels).transpose(0, 2, 3, 4, 1)
    db = gradient[..., -1].reshape(width, groups * k).sum(0)
    return fold_filters(dw, windows, width) if width > 1 else dw, db


def _gradient(dy, x, windows, groups) -> np.ndarray:
    """dw[g, k, (r, s, c)], with db as one more column."""
    k, channels, accumulator = dy.shape[3] // groups, x.shape[3] // groups, accumulation_dtype(x.dtype)
    columns = math.prod(windows.kernel_size) * channels + 1
    form = Taps if channels == k == 1 else Matrix

    def prepare(dy, x):
        dw = np.zeros((groups, k, columns), accumulator)
        return dy, _Blocks(x, windows, _block_bytes(dw)), form(), dw

    def gradient(dy, blocks, form, dw):
        for images, rows, view in blocks:
            form.add_gradient(view, widen(dy[images, rows]), dw.transpose(0, 2, 1))
        return dw

    return sum_parts(gradient, dy, x, nbytes=windows.copied_bytes(x), prepare=prepare)


class _Blocks:
    """Splits the windows of x into blocks, one for each product; no block is larger than the first. A block has one or
    more images if the windows of an image fit into `budget` bytes, else one or more rows p of one image. Yields each
    block's images, its rows and their view."""

    def __init__(self, x: np.ndarray, windows: Windows, budget: int) -> None:
        count, image_bytes = windows.count[0], max(1, windows.copied_bytes(x[:1]))
        self.depth = max(1, min(len(x), budget // image_bytes))
        height = max(1, budget * count // image_bytes)
        fits = image_bytes <= budget
        self.rows = [slice(None)] if fits else [slice(p, p + height) for p in range(0, count, height)]
        self.view = Im2colView(windows, x, self.depth)

    def __iter__(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        for n in range(0, len(self.view.x), self.depth):
            images = slice(n, min(n + self.depth, len(self.view.x)))
            view = self.view.of(images)
            for rows in self.rows:
                yield images, rows, view[:, rows]


def _block_bytes(weights: np.ndarray) -> int:
    """The bytes of windows to copy for one product with these weights."""
    least = LEAST_OF_FEW_WEIGHTS if weights.nbytes < FEW_WEIGHTS_BYTES else LEAST_BLOCK_BYTES
    return min(MOST_BLOCK_BYTES, max(least, TIMES_WEIGHTS * weights.nbytes))
