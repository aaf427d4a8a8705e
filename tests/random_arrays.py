"""Random NumPy arrays."""

import numpy as np

from gpuconv.dtypes import as_dtype


def signed(shape, seed=0, *, scale=1.0, dtype="float64"):
    """Normally distributed numbers."""
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * scale).astype(as_dtype(dtype))
