"""Float dtypes on the way in and out: widen to the accumulation dtype, compute, round once."""

from __future__ import annotations

import numpy as np

from gpuconv.dtypes import accumulation_dtype

__all__ = ["store", "widen"]


def widen(x: np.ndarray) -> np.ndarray:
    """`x` in the dtype it accumulates in: a copy for the halves, `x` itself for float32 and float64."""
    return x.astype(accumulation_dtype(x.dtype), copy=False)


def store(result: np.ndarray, dtype: np.dtype, out: np.ndarray | None, accumulate: bool = False) -> np.ndarray:
    """Round `result` once to `dtype`: into `out` where one is given, added to what `out` holds with `accumulate`.

    A value beyond the largest half becomes inf without a warning, as on a GPU.
    """
    with np.errstate(over="ignore"):
        if out is None:
            return result.astype(dtype, copy=False)
        out[...] = widen(out) + result if accumulate else result
        return out
