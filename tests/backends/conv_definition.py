"""Convolution by its definition, one tap at a time, in float64: slow, but simple enough to check by eye."""

import numpy as np


def taps(case):
    """Each (p, q, r, s, h, w) where tap (r, s) of window (p, q) reads the cell (h, w), inside the input."""
    (top, _), (left, _) = case.padding
    _, p_count, q_count, _ = case.y_shape
    for p, q, r, s in np.ndindex(p_count, q_count, *case.kernel_size):
        h = p * case.stride[0] + r * case.dilation[0] - top
        w = q * case.stride[1] + s * case.dilation[1] - left
        if 0 <= h < case.h and 0 <= w < case.w:
            yield p, q, r, s, h, w


def group_slices(case):
    """The input channels and the filters of each group."""
    c, k = case.c // case.groups, case.k // case.groups
    for g in range(case.groups):
        yield slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)


def fprop(case, x, w, bias):
    y = np.zeros(case.y_shape) + bias
    for p, q, r, s, row, column in taps(case):
        for c, k in group_slices(case):
            y[:, p, q, k] += x[:, row, column, c] @ w[k, r, s].T
    return y


def dgrad(case, dy, w):
    dx = np.zeros(case.x_shape)
    for p, q, r, s, row, column in taps(case):
        for c, k in group_slices(case):
            dx[:, row, column, c] += dy[:, p, q, k] @ w[k, r, s]
    return dx


def wgrad(case, dy, x):
    dw = np.zeros(case.w_shape)
    for p, q, r, s, row, column in taps(case):
        for c, k in group_slices(case):
            dw[k, r, s] += dy[:, p, q, k].T @ x[:, row, column, c]
    return dw
