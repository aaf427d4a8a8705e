"""Polynomials, highest power first, in the dtype of their argument: the same bits on every machine."""

from __future__ import annotations

import numpy as np


def horner(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """The polynomial's value at each x, by Horner's rule."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


def ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    """The ratio of two polynomials' values."""
    numerator, denominator = coefficients
    result = horner(numerator, x)
    result /= horner(denominator, x)
    return result
