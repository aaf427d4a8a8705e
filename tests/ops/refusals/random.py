"""Refused calls of the ops that fill arrays with random numbers, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import VECTOR

REFUSALS = [
    (ops.random_uniform, [np.zeros(3, np.int64)], {"seed": 0}, TypeError, "y must be a float array"),
    (
        ops.random_uniform,
        [VECTOR],
        {"seed": 0, "low": 2, "high": 1},
        ValueError,
        "low must not exceed high, received 2.0 and 1.0",
    ),
    (
        ops.random_uniform,
        [VECTOR],
        {"seed": 0, "low": -1e308, "high": 1e308},
        ValueError,
        "high - low must be finite, received -1e+308 and 1e+308",
    ),
    (ops.random_uniform, [VECTOR], {"seed": 0, "high": np.inf}, ValueError, "high must lie in (-inf, inf), received"),
    (ops.random_normal, [VECTOR], {"seed": 0, "std": -1}, ValueError, "std must lie in [0.0, inf), received -1"),
    (
        ops.random_normal,
        [VECTOR],
        {"seed": 2**64},
        ValueError,
        "seed must be below 2**64, received 18446744073709551616",
    ),
    (ops.random_normal, [VECTOR], {"seed": 0, "stream": 2**32}, ValueError, "stream must be"),
    (ops.random_normal, [VECTOR], {"seed": 0, "offset": -1}, ValueError, "offset must be at least 0, received -1"),
    (
        ops.random_permutation,
        [np.zeros((2, 3), np.int64)],
        {"seed": 0},
        TypeError,
        "order must be int64 of rank 1, received int64 of shape (2, 3)",
    ),
    (ops.random_permutation, [np.zeros(3, np.int32)], {"seed": 0}, TypeError, "received int32 of shape (3,)"),
    (ops.random_permutation, [np.zeros(3, np.int64)], {"seed": 0, "epoch": -1}, ValueError, "epoch must be"),
]
