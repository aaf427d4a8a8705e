"""Convolutions of few channels, computed with fewer but wider windows.

A group of T neighboring outputs (n, p, q .. q + T - 1, all k) has the memory layout of one output pixel with T * K
channels. It is the output of T * K filters that are wide enough to cover all T windows: filter (t, k) is filter k,
moved t windows to the right and padded with zeros. So there are T times fewer windows, each only T - 1 strides wider.
Less is copied, more is multiplied, and the matrix product has more columns, which is faster for small K or C.
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.im2col import Windows

MAX_WIDTH = 4  # the most outputs in a group
MAX_CHANNELS = 32  # wide filters were measured to be faster while width * (geometric mean of C and K) is at most this


def group_width(windows: Windows, channels: int, filters: int, groups: int) -> int:
    """The number of outputs in a group, a divisor of Q; 1 if wide filters are not faster."""
    plain = groups == 1 and min(windows.kernel_size) > 0  # in a strided dgrad, a phase of the stride may have no tap
    widest = min(MAX_WIDTH, math.isqrt(MAX_CHANNELS**2 // max(1, channels * filters))) if plain else 1
    return next((width for width in range(widest, 1, -1) if windows.count[1] % width == 0), 1)


def group_outputs(y: np.ndarray, width: int) -> np.ndarray:
    """(N, P, Q, K) -> (N, P, Q // width, width * K), a view."""
    n, p, q, k = y.shape
    return y.reshape(n, p, q // width, width * k)


def widen_filters(filters: np.ndarray, windows: Windows, width: int) -> np.ndarray:
    """The wide filters: (1, R, S, C, K) -> (1, R, wide S, C, width * K)."""
    c, k = filters.shape[3:]
    wide = np.zeros((1, *windows.widened(width).kernel_size, c, width, k), filters.dtype)
    for t, taps in enumerate(_taps(windows, width)):
        wide[:, :, taps, :, t] = filters
    return wide.reshape(*wide.shape[:4], width * k)


def fold_filters(wide: np.ndarray, windows: Windows, width: int) -> np.ndarray:
    """The filters' gradient from the wide filters': (1, R, wide S, C, width * K) -> (1, R, S, C, K)."""
    wide = wide.reshape(*wide.shape[:4], width, wide.shape[4] // width)
    return np.sum([wide[:, :, taps, :, t] for t, taps in enumerate(_taps(windows, width))], axis=0)


def _taps(windows: Windows, width: int) -> list[slice]:
    """The position of filter (t, k)'s taps in the wide filter, for each t."""
    stride, dilation = windows.stride[1], windows.dilation[1]
    span = dilation * (windows.kernel_size[1] - 1) + 1
    return [slice(t * stride, t * stride + span, dilation) for t in range(width)]
