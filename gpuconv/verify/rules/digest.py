"""The digest of a tensor."""

from __future__ import annotations

import numpy as np

from gpuconv import ops
from gpuconv.types import Options
from gpuconv.verify.bounds import accumulation
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.base import Arrays


def digest(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The digest of x in the case's dtype. The two numbers of the hash must be exact; the sums have bounds on the error
    of accumulating them in float64."""
    x, *before = (array for array in arrays if array is not None)
    found = ops.digest(*(array.astype(dtype) for array in (x, *before)))
    of_sums = [np.abs(x).sum(), (x**2).sum(), sum(((x - old) ** 2).sum() for old in before)]
    errors = [accumulation(np.float64, x.size, size) for size in of_sums]
    return [Expected("result", found, np.array([0.0, 0.0, *errors]))]
