"""How far a result may lie from the float64 reference: derived from the dtype and the reduction's length."""

from __future__ import annotations

import numpy as np

# Half the spacing of floats around 1: the relative error of one rounding.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def sum_bound(dtype, length: int, magnitude):
    """The worst error of a sum of `length` products in any order (Higham, Accuracy and Stability, section 3.1).

    magnitude: the same sum over absolute values. Accumulation is in float32 for the halves, plus one rounding to dtype.
    """
    name = np.dtype(dtype).name
    accumulate = UNIT_ROUNDOFF[name] if name == "float64" else UNIT_ROUNDOFF["float32"]
    return (2 * (length + 2) * accumulate + 2 * UNIT_ROUNDOFF[name]) * np.abs(magnitude) + smallest(name)


def smallest(name: str) -> float:
    """A result below the smallest normal number is only good to an absolute step."""
    return {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}[name]


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
