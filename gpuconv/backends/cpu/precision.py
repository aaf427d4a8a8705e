"""Conversion of float dtypes: widen to the accumulation dtype, compute, round once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpuconv.backends.cpu.elementwise import elementwise
from gpuconv.backends.cpu.parallel import sum_parts
from gpuconv.dtypes import accumulation_dtype

__all__ = ["buffer", "factors", "round_tf32", "side_by_side", "store", "sum_rows", "widen"]


def widen(x: np.ndarray) -> np.ndarray:
    """`x` in its accumulation dtype: a copy if it has 16 bits, `x` itself in float32 and float64."""
    return x.astype(accumulation_dtype(x.dtype), copy=False)


def round_tf32(x: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to TF32's 10-bit mantissa, ties away from zero; NaN and infinities are unchanged."""
    rounded = ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(x), x, rounded)


def factors(tf32: bool, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The factors of a product: the arrays, rounded to TF32 if `tf32`."""
    return tuple([round_tf32(x) for x in arrays]) if tf32 else arrays


def store(result: np.ndarray, dtype: np.dtype, out: np.ndarray | None, accumulate: bool = False) -> np.ndarray:
    """Round `result` once to `dtype`, into `out` if given; `accumulate` adds it to `out`.

    A value too large for `dtype` becomes inf, as on a GPU.
    """
    if out is None:
        return result.astype(dtype, order="C", copy=False)
    if accumulate:
        return elementwise(np.add, out, result, out=out)
    if out is not result:
        out[...] = result
    return out


def buffer(out: np.ndarray | None, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """A contiguous array for a result: `out` if it is one of this dtype, else a new one."""
    if out is None or out.dtype != dtype or not out.flags.c_contiguous:
        return np.empty(shape, dtype)
    return out


def sum_rows(x: np.ndarray) -> np.ndarray:
    """The sum over all axes but the last, in the accumulation dtype.

    Up to 64 partial sums are computed first, which shortens the chains of roundings. BLAS computes them, as a product
    with ones, so fast that only large arrays are worth another core.
    """
    rows = side_by_side(widen(x))
    sums = sum_parts(lambda rows: np.tensordot(np.ones(len(rows), rows.dtype), rows, 1), rows, nbytes=rows.nbytes // 4)
    return sums.sum(0)


def side_by_side(x: np.ndarray) -> np.ndarray:
    """(..., C) as rows of up to 64 pixels, (rows, pixels, C), a view if x is contiguous. An array (pixels, C)
    broadcasts against this: NumPy's inner loop then covers a whole row. With an array (C,) it would cover one pixel."""
    pixels = math.prod(x.shape[:-1])
    run = math.gcd(pixels, 64)
    return x.reshape(pixels // run, run, x.shape[-1])
