"""Refused calls of linear layers, and their errors."""

from gpuconv import ops
from tests.ops.refusals.arrays import ROWS, WEIGHT, X, zeros

REFUSALS = [
    (ops.linear, [ROWS, zeros(4, 2)], {}, ValueError, "w reads 2 features, so x must have 2 columns, received 3"),
    (
        ops.linear,
        [ROWS, WEIGHT, zeros(3)],
        {},
        ValueError,
        "bias must have shape (4,) (one value for each output feature), received (3,)",
    ),
    (ops.linear, [X, WEIGHT], {}, ValueError, "x must have the axes (N, in_features), received shape (2, 5, 7, 4)"),
    (
        ops.linear_dgrad,
        [ROWS, WEIGHT],
        {},
        ValueError,
        "w has 4 output features, so dy must have 4 columns, received 3",
    ),
    (ops.linear_wgrad, [ROWS, zeros(4, 2)], {}, ValueError, "dy and x must have one batch size, received 5 and 4"),
    (ops.linear, [ROWS, WEIGHT.astype(float)], {}, TypeError, "received x float32, w float64"),
    (ops.linear, [ROWS.astype(int), WEIGHT.astype(int)], {}, TypeError, "x must be a float array"),
    (ops.linear, [ROWS, WEIGHT], {"out": zeros(5, 3)}, ValueError, "out must have shape (5, 4) (the result's shape)"),
    (ops.linear, [ROWS, WEIGHT], {"out": zeros(5, 4, dtype=float)}, TypeError, "result's dtype float32"),
    (
        ops.linear_wgrad,
        [zeros(5, 4), ROWS],
        {"accumulate": True},
        ValueError,
        "accumulate=True adds to out, which was not given",
    ),
]
