"""Comparing with float64, within bounds that follow from the dtype and the reduction's length."""

from __future__ import annotations

import numpy as np

from gpuconv.verify.bounds import SMALLEST, UNIT_ROUNDOFF, sum_bound

__all__ = ["UNIT_ROUNDOFF", "assert_within", "elementwise_bound", "smallest", "sum_bound"]


def smallest(name: str) -> float:
    """The absolute step below the smallest normal number."""
    return SMALLEST[name]


def elementwise_bound(dtype, value, roundings: int = 4):
    """The error of a few roundings on the way to `value`, the last one to dtype."""
    return sum_bound(dtype, roundings, value)


def assert_within(actual, expected, bound, what: str = "") -> None:
    """|actual - expected| <= bound everywhere, with equal shapes and NaN in the same places."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} is not {expected.shape}"
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), err_msg=f"{what}: NaN")
    with np.errstate(invalid="ignore"):
        excess = np.where(actual == expected, -1.0, np.abs(actual - expected) - bound)
    worst = np.unravel_index(np.nanargmax(excess), excess.shape) if excess.size else ()
    assert not excess.size or not excess[worst] > 0, (
        f"{what}: at {tuple(map(int, worst))} {actual[worst]!r} is not {expected[worst]!r} "
        f"within {np.broadcast_to(bound, excess.shape)[worst]:.3g}"
    )
