"""Comparison with float64, within bounds derived from the dtype and the length of the reduction."""

from __future__ import annotations

from gpuconv.verify.bounds import SMALLEST, UNIT_ROUNDOFF, sum_bound
from gpuconv.verify.compare import Expected, compare

__all__ = ["SMALLEST", "UNIT_ROUNDOFF", "assert_within", "elementwise_bound", "sum_bound"]


def elementwise_bound(dtype, value, roundings: int = 4):
    """The bound on the error of `value` after a few roundings, the last of them to dtype."""
    return sum_bound(dtype, roundings, value)


def assert_within(actual, expected, bound, what: str = "") -> None:
    """|actual - expected| <= bound everywhere, with equal shapes and NaN in the same places."""
    worst = compare(Expected(what or "result", expected, bound), actual)
    assert not worst.wrong, worst.text
