"""Convolutions. All three directions are matrix products over what the windows see, a batch block at a time.

fprop   y  = seen(x) @ w           seen(x) has a row for each output pixel and a column for each (r, s, c)
wgrad   dw = dy^T @ seen(x)
dgrad   dx = seen(dy) @ flipped w  once for each phase of the stride (see `_phase`)

Two special forms win by a measured margin: `strips`, where the channels are few and copying windows would cost more
than multiplying, and `taps`, where each filter reads one channel and there is no matrix to multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpuconv import shapes
from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.bits import keep
from gpuconv.backends.reference.cores import in_parts, sum_parts
from gpuconv.backends.reference.pool import max_pool2d
from gpuconv.backends.reference.rounding import factors, separate, store, sum_rows, widen
from gpuconv.backends.reference.strips import fold_filters, in_strips, strip_width, widen_filters
from gpuconv.backends.reference.windows import Windows
from gpuconv.dtypes import accumulation_dtype

__all__ = ["bias_grad", "conv2d", "conv2d_dgrad", "conv2d_relu", "conv2d_wgrad"]

# Of the windows that a core copies for one product, measured: so many that they are still in its cache when they are
# multiplied, and many times the weights, which every product reads anew. Few weights are multiplied so fast that the
# time in Python between products would show.
CACHED_BYTES = 1 << 20
TIMES_WEIGHTS = 8
FEW_WEIGHTS_BYTES = 64 << 10
MOST_BLOCK_BYTES = 8 << 20  # small beside the activations


def conv2d(
    x, w, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None, fit="floor", algo="auto",
    tf32=False, out=None,
):
    x, w = factors(tf32, x, w)
    windows = _windows(x.shape, w.shape[1:3], stride, padding, dilation, fit)
    y = separate(out, (x.shape[0], *windows.count, w.shape[0]), x.dtype, x, w, bias)
    k, r, s, channels = w.shape
    filters = w.reshape(groups, k // groups, r, s, channels).transpose(0, 2, 3, 4, 1)
    _correlate(x, filters, windows, y, bias, activation)
    return store(y, x.dtype, out)


def conv2d_relu(
    x, w, bias=None, *, pool=1, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    out=None,
):
    window = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit, tf32=tf32)
    y = conv2d(x, w, bias, activation="relu", **window)
    y, first = max_pool2d(y, kernel_size=(pool, pool), stride=(pool, pool), padding=((0, 0), (0, 0)))
    passes = (first[..., None] == np.arange(pool**2)) & (y > 0)[..., None]
    return store(y, x.dtype, out), _packed(passes, groups)


def conv2d_dgrad(
    dy, w, *, input_shape, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None,
):
    """Stride 1: fprop of dy with the filters flipped and the roles of input and output channels exchanged.

    Stride > 1: the cells h = a, a + stride, a + 2 stride, ... are read through the same taps, and for each such
    phase a, dx is again a stride-1 fprop of dy, with those taps alone.
    """
    _, h, w_size, _ = input_shape
    k, r, s, group_channels = w.shape
    dx = separate(out, input_shape, dy.dtype, dy, w)
    dy = _spread(dy, mask, pool, groups, _windows(input_shape, (r, s), stride, padding, dilation, fit).count)
    dy, w = factors(tf32, dy, w)
    filters = w.reshape(groups, k // groups, r, s, group_channels).transpose(0, 2, 3, 1, 4)
    for a in range(min(stride[0], h)):
        for b in range(min(stride[1], w_size)):
            part = dx[:, a :: stride[0], b :: stride[1]]
            taps_h, start_h, dilation_h = _phase(a + padding[0][0], r, stride[0], dilation[0])
            taps_w, start_w, dilation_w = _phase(b + padding[1][0], s, stride[1], dilation[1])
            used = filters[:, taps_h, taps_w]
            windows = Windows(part.shape[1:3], used.shape[1:3], (1, 1), (dilation_h, dilation_w), (start_h, start_w))
            _correlate(dy, used, windows, part)
    return store(dx, dy.dtype, out)


def conv2d_wgrad(
    dy, x, *, kernel_size, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None, db=None, accumulate=False,
):
    windows = _windows(x.shape, kernel_size, stride, padding, dilation, fit)
    dy = _spread(dy, mask, pool, groups, windows.count)
    exact_dy, (dy, x) = dy, factors(tf32, dy, x)
    channels, k = x.shape[3] // groups, dy.shape[3]
    width = strip_width(windows, channels, k, groups)
    seen_by = windows.strips(width) if width > 1 else windows
    gradient = _correlate_gradient(in_strips(dy, width), x, seen_by, groups)
    dw = gradient[:, :-1].reshape(width * k, *seen_by.kernel_size, channels)
    if db is not None:
        sums = sum_rows(exact_dy) if tf32 else gradient[:, -1].reshape(width, k).sum(0)
        store(sums, exact_dy.dtype, db, accumulate)
    return store(fold_filters(dw, windows, width) if width > 1 else dw, x.dtype, out, accumulate)


def bias_grad(dy, *, out=None, accumulate=False):
    return store(sum_rows(dy), dy.dtype, out, accumulate)


# --- masks -------------------------------------------------------------------------------------


def _packed(passes: np.ndarray, groups: int) -> np.ndarray:
    """The mask of conv2d_relu: passes[n, p, q, k, j] as bits, each group's filled up to whole bytes."""
    n, p, q, k, pixels = passes.shape
    packed = np.packbits(passes.reshape(n, p, q, groups, k // groups * pixels), -1, "little")
    return packed.reshape(n, p, q, groups * packed.shape[4])


def _spread(dy, mask, pool, groups, pq) -> np.ndarray:
    """The gradient to the convolution's own output, (N, P, Q, K): each number of dy at the pixel that the mask says, or
    nowhere."""
    if mask is None:
        return dy
    (n, p, q, k), pixels = dy.shape, pool**2
    bytes_a_group = mask.reshape(n, p, q, groups, mask.shape[3] // groups)
    bits = np.unpackbits(bytes_a_group, axis=-1, count=k // groups * pixels, bitorder="little")
    passes = bits.reshape(n, p, q, k, pool, pool)
    spread = np.zeros((n, *pq, k), dy.dtype)
    for row, column in np.ndindex(pool, pool):
        place = spread[:, row : p * pool : pool, column : q * pool : pool]
        place[...] = keep(dy, passes[..., row, column])
    return spread


# --- windows -----------------------------------------------------------------------------------


def _windows(input_shape, kernel_size, stride, padding, dilation, fit) -> Windows:
    count = shapes.output_hw(input_shape[1:3], kernel_size, stride, padding, dilation, fit)
    return Windows(count, kernel_size, stride, dilation, (-padding[0][0], -padding[1][0]))


def _phase(position: int, taps: int, stride: int, dilation: int) -> tuple[slice, int, int]:
    """Which outputs read the cells at position, position + stride, ... of the padded input, through which taps.

    Output p reads the cell p * stride + r * dilation through tap r, so r * dilation = position modulo stride. Those
    r are `every` = stride / gcd apart, and from one to the next p falls by dilation / gcd.

    Returns the taps r, last one first as p ascends, and the first p and the step of p.
    """
    common = math.gcd(stride, dilation)
    every, step = stride // common, dilation // common
    first = next((r for r in range(min(every, taps)) if (position - r * dilation) % stride == 0), taps)
    used = range(first, taps, every)
    if not used:
        return slice(0, 0), 0, step
    return slice(used[-1], first - 1 if first else None, -every), (position - used[-1] * dilation) // stride, step


# --- products ----------------------------------------------------------------------------------


def _correlate(x, filters, windows, y, bias=None, activation=None) -> None:
    """y[..., (g, k)] = act(bias[(g, k)] + sum over r, s, c of seen[..., r, s, (g, c)] * filters[g, r, s, c, k]), where
    seen is what the windows see of x, and ... stands for n, p, q."""
    filters, bias = widen(filters), None if bias is None else widen(bias)
    groups, _, _, channels, k = filters.shape
    width = strip_width(windows, channels, k, groups) if y.flags.c_contiguous else 1
    with np.errstate(all="ignore"):  # infinities and NaN are results here, as on a GPU, not warnings
        if width > 1:
            wide_bias = None if bias is None else np.concatenate([bias] * width)
            wide, strips = widen_filters(filters, windows, width), in_strips(y, width)
            if _products(x, wide, windows.strips(width), strips, wide_bias, activation, finite=True):
                return
        # A wide filter has zeros beside its taps, which turn a neighbour's infinity into NaN.
        _products(x, filters, windows, y, bias, activation)


def _products(x, filters, windows, y, bias, activation, finite=False) -> bool:
    """`_correlate` with these very filters. finite: only where all numbers are; returns whether it is done."""
    groups, r, s, channels, k = filters.shape
    product = _taps if (channels, k) == (1, 1) else _matrix_product
    weights = filters.reshape(groups, r * s * channels, k)
    if bias is not None:  # one weight more, of an input that is always 1
        weights = np.concatenate([weights, bias.reshape(groups, 1, k)], axis=1)

    def write(x, y):
        if finite and x.size < y.size and not np.isfinite(x.sum(dtype=weights.dtype)):
            return False
        matrices = _Matrices(groups, weights.shape[1])
        for images, rows, seen in _blocks(x, windows, weights):
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


def _correlate_gradient(dy, x, windows, groups) -> np.ndarray:
    """dw[k, (r, s, c)] = sum over n, p, q of dy[n, p, q, k] * seen[n, p, q, r, s, c], in the accumulation dtype. One
    column more, for an input that is always 1, is the gradient of the bias."""
    k, channels, accumulator = dy.shape[3], x.shape[3] // groups, accumulation_dtype(x.dtype)
    columns = math.prod(windows.kernel_size) * channels + 1
    product = _taps_gradient if channels == 1 and k == groups else _matrix_product_gradient

    def gradient(dy, x):
        dw, matrices = np.zeros((k, columns), accumulator), _Matrices(groups, columns)
        for images, rows, seen in _blocks(x, windows, dw):
            product(widen(dy[images, rows]), seen, dw, matrices)
        return dw

    with np.errstate(all="ignore"):
        return sum_parts(gradient, dy, x, nbytes=windows.copied_bytes(x))


def _blocks(x: np.ndarray, windows: Windows, weights: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """What the windows of x see, in blocks for one product each, the largest first: several images where their copies
    are small enough, else some rows p of one, but always one row. Yields its images, its rows and what is seen."""
    rows, budget = windows.count[0], _block_bytes(weights)
    image_bytes = max(1, windows.copied_bytes(x[:1]))
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
    if weights.nbytes < FEW_WEIGHTS_BYTES:
        return MOST_BLOCK_BYTES // 2
    return min(MOST_BLOCK_BYTES, max(CACHED_BYTES, TIMES_WEIGHTS * weights.nbytes))


class _Matrices:
    """For each group a matrix with a row for each window (n, p, q) and a column for each (r, s, c), and a column of
    ones where one more is wanted. The windows are copied into one room, which the first, largest block makes."""

    def __init__(self, groups: int, columns: int) -> None:
        self.groups, self.columns = groups, columns
        self.room: np.ndarray | None = None

    def of(self, seen: np.ndarray) -> np.ndarray:
        n, p, q, r, s, channels = seen.shape
        height, width = n * p * q, r * s * channels // self.groups
        if self.room is None:
            self.room = np.empty((self.groups, height, self.columns), seen.dtype)
            self.room[:, :, width:] = 1
        matrices = self.room[:, :height]
        by_group = seen.reshape(n, p, q, r, s, self.groups, channels // self.groups).transpose(5, 0, 1, 2, 3, 4, 6)
        matrices[:, :, :width].reshape(by_group.shape, copy=False)[...] = by_group
        return matrices


def _matrix_product(seen, weights, y, matrices) -> None:
    groups, _, k = weights.shape
    by_group = y.reshape(math.prod(y.shape[:3]), groups, k).transpose(1, 0, 2)
    np.matmul(matrices.of(seen), weights, out=by_group)


def _matrix_product_gradient(dy, seen, dw, matrices) -> None:
    by_group = dy.reshape(math.prod(dy.shape[:3]), matrices.groups, len(dw) // matrices.groups).transpose(1, 2, 0)
    dw += (by_group @ matrices.of(seen)).reshape(dw.shape)


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
