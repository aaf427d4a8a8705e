"""Convolutions. All three directions are matrix products over what the windows see, a batch block at a time.

fprop   y  = seen(x) @ w           seen(x) has a row for each output pixel and a column for each (r, s, c)
wgrad   dw = dy^T @ seen(x)
dgrad   dx = seen(dy) @ flipped w  once for each phase of the stride (see `_phase`)

`products` has the forms they take.
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv import shapes
from gpuconv.backends.reference.bits import keep
from gpuconv.backends.reference.pool import max_pool2d
from gpuconv.backends.reference.products import correlate, correlate_gradient
from gpuconv.backends.reference.rounding import factors, separate, store, sum_rows
from gpuconv.backends.reference.windows import Windows

__all__ = ["bias_grad", "conv2d", "conv2d_dgrad", "conv2d_relu", "conv2d_wgrad"]


def conv2d(
    x, w, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None, fit="floor", algo="auto",
    tf32=False, out=None,
):
    x, w = factors(tf32, x, w)
    windows = _windows(x.shape, w.shape[1:3], stride, padding, dilation, fit)
    y = separate(out, (x.shape[0], *windows.count, w.shape[0]), x.dtype, x, w, bias)
    k, r, s, channels = w.shape
    filters = w.reshape(groups, k // groups, r, s, channels).transpose(0, 2, 3, 4, 1)
    correlate(x, filters, windows, y, bias, activation)
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
            correlate(dy, used, windows, part)
    return store(dx, dy.dtype, out)


def conv2d_wgrad(
    dy, x, *, kernel_size, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None, db=None, accumulate=False,
):
    windows = _windows(x.shape, kernel_size, stride, padding, dilation, fit)
    dy = _spread(dy, mask, pool, groups, windows.count)
    dy_factors, x_factors = factors(tf32, dy, x)
    dw, sums = correlate_gradient(dy_factors, x_factors, windows, groups)
    if db is not None:
        store(sum_rows(dy) if tf32 else sums, dy.dtype, db, accumulate)
    return store(dw, x.dtype, out, accumulate)


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
