"""Refused calls of activations, and their errors."""

import numpy as np

from gpuconv import ops
from tests.ops.refusals.arrays import zeros

REFUSALS = [
    (
        ops.relu,
        [np.zeros(3, np.uint8)],
        {},
        TypeError,
        "x must be a float array (float64, float32, float16, bfloat16), received uint8; convert it, for example with "
        "array.astype('float32') / 255 for images",
    ),
    (ops.relu, [np.zeros(3, np.complex64)], {}, TypeError, "received complex64"),
    (ops.softmax, [zeros(3)], {}, ValueError, "x must have the axes (N, classes), received shape (3,)"),
    (
        ops.relu_backward,
        [zeros(3), zeros(3, dtype=float)],
        {},
        TypeError,
        "all arrays of one call must have one dtype, received dy float32, y float64",
    ),
    (ops.relu_backward, [zeros(3), zeros(4)], {}, ValueError, "y must have shape (3,) (dy's shape), received (4,)"),
    (ops.silu_backward, [zeros(3), zeros(4)], {}, ValueError, "x must have shape (3,) (dy's shape), received (4,)"),
    (
        ops.tanh,
        [zeros(3)],
        {"out": zeros(2)},
        ValueError,
        "out must have shape (3,) (the result's shape), received (2,)",
    ),
    (
        ops.tanh,
        [zeros(3)],
        {"out": zeros(3, dtype=float)},
        TypeError,
        "out must have the result's dtype float32, received float64",
    ),
    (
        ops.leaky_relu,
        [zeros(3)],
        {"negative_slope": -1},
        ValueError,
        "negative_slope must lie in [0.0, inf), received -1",
    ),
    (ops.elu, [zeros(3)], {"alpha": -1}, ValueError, "alpha must lie in [0.0, inf), received -1"),
    (ops.elu_backward, [zeros(3), zeros(3)], {"alpha": "1"}, TypeError, "alpha must be a number, received '1'"),
    (
        ops.gelu,
        [zeros(3)],
        {"approximate": "tan"},
        ValueError,
        "unknown GELU approximation 'tan'; did you mean 'tanh'? (known: none, tanh)",
    ),
    (
        ops.gelu_backward,
        [zeros(3), zeros(3)],
        {"approximate": None},
        TypeError,
        "the GELU approximation is chosen by name, received NoneType: None",
    ),
]
