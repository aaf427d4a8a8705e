"""Convolution, one filter tap at a time.

Tap (r, s) reads a slice of the padded input, (N, P, Q, C), and holds a matrix w[:, r, s], (K, C). With a row for each
output pixel (n, p, q),

    fprop   y              += padded_x[tap] @ w[:, r, s].T
    dgrad   padded_dx[tap] += dy @ w[:, r, s]
    wgrad   dw[:, r, s]     = dy.T @ padded_x[tap]

for each group, with its own channels c and filters k.
"""

import math

import numpy as np

from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.pool import max_pool2d
from gpuconv.backends.reference.precision import factors, round_to, wide
from gpuconv.backends.reference.windows import Windows


def conv2d(
    x, w, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None, fit="floor", algo="auto",
    tf32=False, out=None,
):
    windows, dtype = Windows(x.shape[1:3], w.shape[1:3], stride, padding, dilation, fit), x.dtype
    x, w = factors(tf32, x, w)
    y, padded = np.zeros((len(x) * math.prod(windows.count), len(w))), windows.pad(x)
    for r, s, tap in windows.taps():
        for c, k in _group_slices(w, groups):
            y[:, k] += _rows(padded[tap][..., c]) @ w[k, r, s].T
    if bias is not None:
        y += wide(bias)
    if activation is not None:
        y = getattr(activations, activation)(y)
    return round_to(y.reshape(len(x), *windows.count, len(w)), dtype, out)


def conv2d_dgrad(
    dy, w, *, input_shape, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None,
):
    windows, dtype = Windows(input_shape[1:3], w.shape[1:3], stride, padding, dilation, fit), dy.dtype
    dy, w = factors(tf32, _before_mask(dy, mask, pool, groups, windows), w)
    padded_dx = windows.pad(np.zeros(input_shape))
    for r, s, tap in windows.taps():
        for c, k in _group_slices(w, groups):
            read = padded_dx[tap][..., c]
            read += (_rows(dy[..., k]) @ w[k, r, s]).reshape(read.shape)
    return round_to(windows.crop(padded_dx), dtype, out)


def conv2d_wgrad(
    dy, x, *, kernel_size, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None, db=None, accumulate=False,
):
    windows, dtype = Windows(x.shape[1:3], kernel_size, stride, padding, dilation, fit), x.dtype
    dy = _before_mask(dy, mask, pool, groups, windows)
    wide_dy, x = factors(tf32, dy, x)
    dw, padded = np.zeros((dy.shape[3], *kernel_size, x.shape[3] // groups)), windows.pad(x)
    for r, s, tap in windows.taps():
        for c, k in _group_slices(dw, groups):
            dw[k, r, s] = _rows(wide_dy[..., k]).T @ _rows(padded[tap][..., c])
    if db is not None:
        bias_grad(dy, out=db, accumulate=accumulate)
    return round_to(dw, dtype, out, accumulate)


def conv2d_backward(
    dy, x, w, *, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False, mask=None, pool=1,
    out=None, dw=None, db=None, accumulate=False,
):
    window = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    options = window | dict(tf32=tf32, mask=mask, pool=pool)
    dx = conv2d_dgrad(dy, w, input_shape=x.shape, **options)
    dw = conv2d_wgrad(dy, x, kernel_size=w.shape[1:3], **options, out=dw, db=db, accumulate=accumulate)
    return round_to(dx, x.dtype, out), dw


def bias_grad(dy, *, out=None, accumulate=False):
    return round_to(_rows(wide(dy)).sum(0), dy.dtype, out, accumulate)


def _group_slices(w: np.ndarray, groups: int) -> list[tuple[slice, slice]]:
    """The input channels and the filters of each group, for w (K, R, S, C // groups)."""
    k, c = len(w) // groups, w.shape[3]
    return [(slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)) for g in range(groups)]


def _rows(x: np.ndarray) -> np.ndarray:
    """(..., C) as a matrix of C columns."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def conv2d_relu(
    x, w, bias=None, *, pool=1, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    out=None,
):
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit, tf32=tf32)
    y = conv2d(x, w, bias, activation="relu", **options)
    y, argmax = max_pool2d(y, kernel_size=(pool, pool), stride=(pool, pool), padding=((0, 0), (0, 0)))
    passes = (argmax[..., None] == np.arange(pool**2)) & (y > 0)[..., None]
    n, p, q, k = y.shape
    mask = np.packbits(passes.reshape(n, p, q, groups, k // groups * pool**2), axis=-1, bitorder="little")
    return round_to(y, x.dtype, out), mask.reshape(n, p, q, groups * mask.shape[4])


def _before_mask(dy: np.ndarray, mask: np.ndarray | None, pool: int, groups: int, windows: Windows) -> np.ndarray:
    """The gradient to the convolution's own output, (N, P, Q, K), for dy the one to the output of conv2d_relu."""
    if mask is None:
        return dy
    (n, p, q, k), before = dy.shape, np.zeros((len(dy), *windows.count, dy.shape[3]), dy.dtype)
    packed = mask.reshape(n, p, q, groups, mask.shape[3] // groups)
    bits = np.unpackbits(packed, axis=-1, count=k // groups * pool**2, bitorder="little")
    passes = bits.reshape(n, p, q, k, pool, pool) > 0
    for i, j in np.ndindex(pool, pool):
        before[:, i : p * pool : pool, j : q * pool : pool] = np.where(passes[..., i, j], dy, 0)
    return before
