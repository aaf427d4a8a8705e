"""Refused calls of copies, sums and scaling, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import X

REFUSALS = [
    (
        ops.copy,
        [X],
        {"out": X[:1]},
        ValueError,
        "out must have shape (2, 5, 7, 4) (the result's shape), received (1, 5, 7, 4)",
    ),
    (
        ops.add,
        [X, X[:1]],
        {},
        ValueError,
        "b must have shape (2, 5, 7, 4) (a's shape, or that of its last axis), received (1, 5, 7, 4)",
    ),
    (ops.add, [X, X[0, 0, 0, :3]], {}, ValueError, "(a's shape, or that of its last axis), received (3,)"),
    (ops.add, [X, X.astype(float)], {}, TypeError, "received a float32, b float64"),
    (ops.scale, [X], {"factor": np.nan}, ValueError, "factor must lie in (-inf, inf), received nan"),
    (ops.scale, [X], {"factor": 1e39}, ValueError, "factor must be a number that float32 can hold, received 1e+39"),
    (
        ops.scale,
        [X],
        {"factor": 1.0, "divisor": 2.0**-130},
        ValueError,
        "factor / divisor must be a number that float32 can hold, received 1.36",
    ),
    (ops.scale, [X], {"factor": np.complex64(2)}, TypeError, "factor must be a number, received np.complex64"),
    (
        ops.scale,
        [X],
        {"factor": np.timedelta64(2, "s")},
        TypeError,
        "factor must be a number, received np.timedelta64(2,'s')",
    ),
]
