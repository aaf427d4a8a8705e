"""Scalars as kernels take them: the numbers of dtypes, and values that may be in device memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.types import Array, Scalar

KINDS = ("float16", "bfloat16", "float32", "float64")  # a dtype's index is `kind` in the kernels


def device_scalar(value: Scalar, dtype: DTypeLike) -> tuple[Array | None, float]:
    """A scalar that may be in device memory, as two kernel parameters: (array or None, number).

    The kernel reads the array, if there is one, when it runs, so each replay of a captured step sees the current value.
    Raises TypeError for an array of another dtype.
    """
    if isinstance(value, (int, float, np.generic)):
        return None, value
    if value.dtype != np.dtype(dtype):
        raise TypeError(f"a scalar in device memory must be {np.dtype(dtype).name} here, received {value.dtype.name}")
    return value, 0
