"""Refused calls of dropout, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import X

REFUSALS = [
    (ops.dropout, [X], {"p": 1.0, "seed": 0}, ValueError, "p must lie in [0.0, 1.0), received 1.0"),
    (ops.dropout, [X], {"p": 0.5, "seed": -1}, ValueError, "seed must be at least 0, received -1"),
    (ops.dropout_backward, [X], {"p": 0.5, "seed": 0, "substream": 0.5}, TypeError, "substream must be an integer"),
    (
        ops.dropout,
        [X],
        {"p": 0.5, "seed": 0, "offset": np.array([1.0])},
        TypeError,
        "offset must be a number or an array of int64, received an array of float64",
    ),
]
