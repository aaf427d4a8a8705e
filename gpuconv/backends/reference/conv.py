"""Convolution, one filter tap at a time.

Tap (r, s) reads a slice of the padded input, (N, P, Q, C), and has the matrix w[:, r, s], (K, C):

    fprop   y              += padded_x[tap] @ w[:, r, s].T
    dgrad   padded_dx[tap] += dy @ w[:, r, s]
    wgrad   dw[:, r, s]     = dy.T @ padded_x[tap]      dy and padded_x[tap] as matrices: a row for each pixel of y

These products are computed for each group, with its channels c and filters k.
"""

import math

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.reference import activation as activations
from gpuconv.backends.reference.pool import max_pool2d
from gpuconv.backends.reference.precision import factors, round_to, wide
from gpuconv.backends.reference.windows import Windows
from gpuconv.problems import PLAIN, Conv2dProblem, Pool2dProblem


def conv2d(x, w, bias, problem, epilogue, *, algo, tf32, out):
    windows, dtype = Windows(problem), x.dtype
    x, w = factors(tf32, x, w)
    y, padded = np.zeros(problem.y_shape), windows.pad(x)
    for r, s, tap in windows.taps():
        for c, k in _group_slices(problem):
            y[..., k] += padded[tap][..., c] @ w[k, r, s].T
    if bias is not None:
        y += wide(bias)
    if epilogue.activation is not None:
        y = ACTIVATIONS[epilogue.activation].apply(activations, y)
    return round_to(y, dtype, out)


def conv2d_dgrad(dy, w, problem, epilogue, *, mask, algo, tf32, out, accumulate):
    windows, dtype = Windows(problem), dy.dtype
    dy, w = factors(tf32, gradient_before_mask(dy, mask, problem, epilogue.pool), w)
    padded_dx = windows.pad(np.zeros(problem.x_shape))
    for r, s, tap in windows.taps():
        for c, k in _group_slices(problem):
            padded_dx[tap][..., c] += dy[..., k] @ w[k, r, s]
    return round_to(windows.crop(padded_dx), dtype, out, accumulate)


def conv2d_wgrad(dy, x, problem, epilogue, *, mask, algo, tf32, out, db, accumulate):
    windows, dtype = Windows(problem), x.dtype
    dy = gradient_before_mask(dy, mask, problem, epilogue.pool)
    wide_dy, x = factors(tf32, dy, x)
    dw, padded = np.zeros(problem.w_shape), windows.pad(x)
    for r, s, tap in windows.taps():
        for c, k in _group_slices(problem):
            dw[k, r, s] = _rows(wide_dy[..., k]).T @ _rows(padded[tap][..., c])
    if db is not None:
        bias_grad(dy, None, activation=None, out=db, accumulate=accumulate)
    return round_to(dw, dtype, out, accumulate)


def conv2d_backward(dy, x, w, problem, epilogue, *, mask, algos, tf32, out, accumulate_dx, dw, db, accumulate):
    options = dict(mask=mask, tf32=tf32)
    dw = conv2d_wgrad(dy, x, problem, epilogue, **options, algo=algos[1], out=dw, db=db, accumulate=accumulate)
    return conv2d_dgrad(dy, w, problem, epilogue, **options, algo=algos[0], out=out, accumulate=accumulate_dx), dw


def bias_grad(dy, saved, *, activation, out, accumulate):
    dz = wide(dy) if activation is None else ACTIVATIONS[activation].gradient(activations, wide(dy), saved)
    return round_to(_rows(dz).sum(0), dy.dtype, out, accumulate)


def _group_slices(problem: Conv2dProblem) -> list[tuple[slice, slice]]:
    """The input channels and the filters of each group."""
    c, k = problem.c // problem.groups, problem.k // problem.groups
    return [(slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)) for g in range(problem.groups)]


def _rows(x: np.ndarray) -> np.ndarray:
    """(..., C) as a matrix with C columns."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def conv2d_relu(x, w, bias, problem, epilogue, *, algo, tf32, out):
    if epilogue.saves_input:
        before = conv2d(x, w, bias, problem, PLAIN, algo=algo, tf32=tf32, out=None)
        return round_to(ACTIVATIONS[epilogue.activation].apply(activations, wide(before)), x.dtype, out), before
    y = conv2d(x, w, bias, problem, epilogue, algo=algo, tf32=tf32, out=None)
    y, argmax = max_pool2d(y, Pool2dProblem.of(y.shape, epilogue.pool), out=None)
    passes = argmax[..., None] == np.arange(epilogue.pool**2)
    if epilogue.activation is not None:
        passes &= (y > 0)[..., None]
    bits = passes.reshape(*y.shape[:3], problem.groups, problem.k // problem.groups * epilogue.pool**2)
    mask = np.packbits(bits, axis=-1, bitorder="little")
    return round_to(y, x.dtype, out), mask.reshape(problem.mask_shape(epilogue.pool))


def gradient_before_mask(dy: np.ndarray, mask: np.ndarray | None, problem: Conv2dProblem, pool: int) -> np.ndarray:
    """The gradient of the convolution's own output, (N, P, Q, K), from dy, the gradient of conv2d_relu's output."""
    if mask is None:
        return dy
    (n, p, q, k), before = dy.shape, np.zeros(problem.y_shape, dy.dtype)
    packed = mask.reshape(n, p, q, problem.groups, mask.shape[3] // problem.groups)
    bits = np.unpackbits(packed, axis=-1, count=k // problem.groups * pool**2, bitorder="little")
    passes = bits.reshape(n, p, q, k, pool, pool) > 0
    for i, j in np.ndindex(pool, pool):
        before[:, i : p * pool : pool, j : q * pool : pool] = np.where(passes[..., i, j], dy, 0)
    return before
