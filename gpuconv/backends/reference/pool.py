"""Pooling, one cell of the window at a time."""

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide
from gpuconv.backends.reference.windows import Windows


def max_pool2d(x, problem, *, out):
    windows = Windows(problem)
    padded, inside = windows.pad(wide(x)), windows.pad(np.ones((1, *windows.hw, 1))) > 0
    best = np.zeros((len(x), *windows.count, x.shape[3]))
    argmax = np.full(best.shape, -1)
    for index, (_, _, tap) in enumerate(windows.taps()):
        value = padded[tap]
        wins = inside[tap] & ((argmax < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best)))
        best, argmax = np.where(wins, value, best), np.where(wins, index, argmax)
    return round_to(best, x.dtype, out), argmax.astype(problem.argmax_dtype)


def max_pool2d_backward(dy, argmax, problem, *, out):
    windows = Windows(problem)
    padded = windows.pad(np.zeros(problem.x_shape))
    for index, (_, _, tap) in enumerate(windows.taps()):
        padded[tap] += np.where(argmax == index, wide(dy), 0)
    return round_to(windows.crop(padded), dy.dtype, out)


def avg_pool2d(x, problem, *, count_include_pad, out):
    windows = Windows(problem)
    padded = windows.pad(wide(x))
    total = sum(padded[tap] for _, _, tap in windows.taps())
    return round_to(total / _counts(windows, count_include_pad), x.dtype, out)


def avg_pool2d_backward(dy, problem, *, count_include_pad, out):
    windows = Windows(problem)
    padded, share = windows.pad(np.zeros(problem.x_shape)), wide(dy) / _counts(windows, count_include_pad)
    for _, _, tap in windows.taps():
        padded[tap] += share
    return round_to(windows.crop(padded), dy.dtype, out)


def _counts(windows: Windows, count_include_pad: bool) -> np.ndarray:
    """(1, P, Q, 1): the number of cells in each window's mean, without those that fit="cover" adds past the padding."""
    counted = windows.pad(np.ones((1, *windows.hw, 1)))
    if count_include_pad:
        (top, bottom), (left, right) = windows.problem.padding
        counted[:, : top + windows.hw[0] + bottom, : left + windows.hw[1] + right] = 1
    return np.sum([counted[tap] for _, _, tap in windows.taps()], axis=0)


def global_avg_pool2d(x, *, out):
    return round_to(wide(x).mean((1, 2), keepdims=True), x.dtype, out)


def global_avg_pool2d_backward(dy, *, input_shape, out):
    return round_to(np.broadcast_to(wide(dy) / max(1, input_shape[1] * input_shape[2]), input_shape), dy.dtype, out)
