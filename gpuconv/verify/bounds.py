"""Error bounds of results, derived from the dtype and the reduction's length.

Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1: the error of a sum of n products, in any order,
is at most gamma(n) = n u / (1 - n u) times the sum of the absolute values, with u the unit roundoff.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.dtypes import accumulation_dtype, as_dtype

# Half the distance from 1 to the next larger float: the largest relative error of one rounding.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
UNIT_ROUNDOFF_TF32 = 2.0**-11
# The smallest positive (subnormal) floats.
SMALLEST = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}


Bound = np.ndarray | float  # one bound for each element, or one for all


def accumulation(dtype: DTypeLike, length: int, magnitude: Bound) -> Bound:
    """A bound on the error of a sum of `length` products in the dtype's accumulator, before it is rounded to dtype.

    magnitude: the same sum over absolute values. The factor 2 covers the second-order terms of gamma and products that
    are not fused. It also covers tensor cores: their products are exact, but their additions truncate, which doubles u
    (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021).
    """
    accumulator = accumulation_dtype(as_dtype(dtype)).name
    return 2 * (length + 2) * UNIT_ROUNDOFF[accumulator] * np.abs(magnitude)


def rounding(dtype: DTypeLike, value: Bound) -> Bound:
    """A bound on the error of rounding `value` to dtype; the constant covers subnormal results."""
    name = as_dtype(dtype).name
    return 2 * UNIT_ROUNDOFF[name] * np.abs(value) + SMALLEST[name]


def sum_bound(dtype: DTypeLike, length: int, magnitude: Bound) -> Bound:
    """A bound on the error of a sum of `length` products, rounded to dtype. magnitude: as in `accumulation`."""
    return accumulation(dtype, length, magnitude) + rounding(dtype, magnitude)
