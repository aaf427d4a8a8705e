"""Refused calls of digests, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import zeros

REFUSALS = [
    (
        ops.digest,
        [zeros(5, 3), zeros(5, 4)],
        {},
        ValueError,
        "before must have shape (5, 3) (x's shape), received (5, 4)",
    ),
    (ops.digest, [np.ones(3, np.int64)], {}, TypeError, "x must be a float array"),
    (ops.digest, [zeros(3), np.zeros(3)], {}, TypeError, "one dtype, received x float32, before float64"),
    (ops.digest, [zeros(3)], {"out": np.empty(4)}, ValueError, "out must have shape (5,)"),
    (
        ops.digest,
        [zeros(3)],
        {"out": zeros(5)},
        TypeError,
        "out must have the result's dtype float64, received float32",
    ),
]
