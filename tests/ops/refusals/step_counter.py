"""Refused calls of step counters, and their errors."""

import numpy as np

from gpuconv import ops

REFUSALS = [
    (
        ops.advance_step_counter,
        [np.zeros(3, np.int64), np.zeros(1), np.zeros(1)],
        {"batch_size": 1},
        TypeError,
        "counters must be int64 of shape (4,), received int64 (3,)",
    ),
    (
        ops.advance_step_counter,
        [np.zeros(4, np.int64), np.zeros(1, np.float32), np.zeros(1)],
        {"batch_size": 1},
        TypeError,
        "lr and rates must both be float32 or both float64",
    ),
    (
        ops.advance_step_counter,
        [np.zeros(4, np.int64), np.zeros(2), np.zeros((3, 1))],
        {"batch_size": 1},
        ValueError,
        "rates must be rows like lr, (T, L) and (L,), received (3, 1) and (2,)",
    ),
    (ops.advance_counter, [np.zeros(1)], {"by": 1}, TypeError, "counter must be int64"),
]
