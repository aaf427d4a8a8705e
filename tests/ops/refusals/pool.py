"""Refused calls of pools, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import ARGMAX, POOL, POOL_BACKWARD, X, zeros

REFUSALS = [
    (ops.max_pool2d, [zeros(5, 7, 4)], POOL, ValueError, "x must have the axes (N, H, W, C), received shape (5, 7, 4)"),
    (ops.max_pool2d, [X], {"kernel_size": 0}, ValueError, "kernel_size must be at least 1, received 0"),
    (ops.avg_pool2d, [X], {"kernel_size": 2, "stride": False}, TypeError, "stride must be an integer, received False"),
    (
        ops.max_pool2d,
        [X],
        {"kernel_size": (2, 3), "padding": ((0, 0), (0, 3))},
        ValueError,
        "a pool's padding must be smaller than its kernel_size (2, 3), or a window would contain only padding; "
        "received ((0, 0), (0, 3))",
    ),
    (
        ops.max_pool2d,
        [zeros(2, 0, 7, 4)],
        {"kernel_size": 3, "padding": 2},
        ValueError,
        "a pool needs maps of at least one pixel, received shape (2, 0, 7, 4)",
    ),
    (
        ops.global_avg_pool2d,
        [zeros(2, 0, 7, 4)],
        {},
        ValueError,
        "the mean over an empty map is undefined, received shape (2, 0, 7, 4)",
    ),
    (
        ops.max_pool2d_backward,
        [zeros(2, 2, 3, 4), ARGMAX.astype(np.int64)],
        POOL_BACKWARD,
        TypeError,
        "argmax must be uint8, as max_pool2d returns it, received int64",
    ),
    (
        ops.max_pool2d_backward,
        [zeros(2, 2, 3, 4), ARGMAX[:1]],
        POOL_BACKWARD,
        ValueError,
        "argmax must have shape (2, 2, 3, 4) (the pool's output), received (1, 2, 3, 4)",
    ),
    (
        ops.avg_pool2d_backward,
        [zeros(2, 2, 4, 4)],
        POOL_BACKWARD,
        ValueError,
        "dy must have shape (2, 2, 3, 4) (the pool's output), received (2, 2, 4, 4)",
    ),
    (
        ops.global_avg_pool2d_backward,
        [zeros(2, 1, 2, 4)],
        {"input_shape": X.shape},
        ValueError,
        "dy must have shape (2, 1, 1, 4) (one value for each map), received (2, 1, 2, 4)",
    ),
    (
        ops.global_avg_pool2d_backward,
        [X[:, :1, :1]],
        {"input_shape": (2, 2**62, 5, 4)},
        ValueError,
        "input_shape must fit into memory, received (2, 4611686018427387904, 5, 4)",
    ),
]
