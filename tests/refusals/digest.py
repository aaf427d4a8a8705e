"""Refused calls of digests, and their errors."""

from gpuconv import ops
from tests.refusals.arrays import zeros

REFUSALS = [
    (
        ops.digest,
        [zeros(5, 3), zeros(5, 4)],
        {},
        ValueError,
        "before must have shape (5, 3) (x's shape), received (5, 4)",
    )
]
