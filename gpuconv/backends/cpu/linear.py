"""Fully-connected layers: matrix products of the batch."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu import activation as activations
from gpuconv.backends.cpu.parallel import matmul
from gpuconv.backends.cpu.precision import factors, separate, store, sum_rows, widen
from gpuconv.dtypes import accumulation_dtype

__all__ = ["linear", "linear_dgrad", "linear_wgrad"]


def linear(x, w, bias=None, *, activation=None, algo="auto", tf32=False, out=None):
    x, w = factors(tf32, x, w)
    y = separate(out, (len(x), len(w)), accumulation_dtype(x.dtype), x, w, bias)
    _product(x, w.T, y)
    if bias is not None:
        y += widen(bias)
    if activation is not None:
        getattr(activations, activation)(y, out=y)
    return store(y, x.dtype, out)


def linear_dgrad(dy, w, *, algo="auto", tf32=False, out=None):
    dy, w = factors(tf32, dy, w)
    dx = separate(out, (len(dy), w.shape[1]), accumulation_dtype(dy.dtype), dy, w)
    return store(_product(dy, w, dx), dy.dtype, out)


def linear_wgrad(dy, x, *, algo="auto", tf32=False, out=None, db=None, accumulate=False):
    if db is not None:
        store(sum_rows(dy), dy.dtype, db, accumulate)
    dy, x = factors(tf32, dy, x)
    fresh = None if accumulate else out
    dw = separate(fresh, (dy.shape[1], x.shape[1]), accumulation_dtype(dy.dtype), dy, x)
    return store(_product(dy.T, x, dw), dy.dtype, out, accumulate)


def _product(a, b, out) -> np.ndarray:
    with np.errstate(all="ignore"):  # infinities and NaN are results here, as on a GPU, not warnings
        return matmul(widen(a), widen(b), out)
