"""Fully-connected layers: matrix products of the batch."""

from __future__ import annotations

import numpy as np

from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cpu import activation as activations
from gpuconv.backends.cpu.parallel import matmul
from gpuconv.backends.cpu.precision import buffer, factors, store, sum_rows, widen
from gpuconv.dtypes import accumulation_dtype


def linear(x, w, bias, problem, epilogue, *, algo, tf32, out):
    x, w = factors(tf32, x, w)
    y = buffer(out, problem.y_shape, accumulation_dtype(x.dtype))
    _product(x, w.T, y)
    if bias is not None:
        y += widen(bias)
    if epilogue.activation is not None:
        ACTIVATIONS[epilogue.activation].apply(activations, y, out=y)
    return store(y, x.dtype, out)


def linear_dgrad(dy, w, problem, *, algo, tf32, out):
    dy, w = factors(tf32, dy, w)
    dx = buffer(out, problem.x_shape, accumulation_dtype(dy.dtype))
    return store(_product(dy, w, dx), dy.dtype, out)


def linear_wgrad(dy, x, problem, *, algo, tf32, out, db, accumulate):
    if db is not None:
        store(sum_rows(dy), dy.dtype, db, accumulate)
    dy, x = factors(tf32, dy, x)
    fresh = None if accumulate else out
    dw = buffer(fresh, problem.w_shape, accumulation_dtype(dy.dtype))
    return store(_product(dy.T, x, dw), dy.dtype, out, accumulate)


def _product(a, b, out) -> np.ndarray:
    return matmul(widen(a), widen(b), out)
