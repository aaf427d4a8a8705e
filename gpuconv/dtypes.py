"""The float dtypes that operations take, and the dtype each accumulates in."""

from __future__ import annotations

from typing import Any

import numpy as np

FLOAT_NAMES = ("float64", "float32", "float16", "bfloat16")


def as_dtype(dtype: Any) -> np.dtype:
    """Return the NumPy dtype of one of `FLOAT_NAMES`, given its name, a type or a dtype.

    bfloat16 comes from ``ml_dtypes``, which is imported only when it is asked for. Raises TypeError
    for any other dtype.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be one of {', '.join(FLOAT_NAMES)}, received {dtype!r}") from None
    if resolved.name not in FLOAT_NAMES:
        raise TypeError(f"dtype must be one of {', '.join(FLOAT_NAMES)}, received {resolved.name}")
    return resolved


def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """float64 sums in float64; everything else sums in float32 and is rounded once."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
