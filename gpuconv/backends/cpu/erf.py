"""The complementary error function and the normal distribution, in the dtype of their argument.

W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969): three
pieces, each a ratio of polynomials, good to 18 digits. NumPy has no erf of its own.
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv.polynomials import ratio

# Coefficients of numerator and denominator, highest power first. erf(x) / x as a function of x**2, for |x| <= 0.46875:
_CENTER = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
# exp(x**2) * erfc(x) as a function of x, for 0.46875 < x <= 4:
_FLANK = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
# x**2 * (1 / sqrt(pi) - x * exp(x**2) * erfc(x)) as a function of x**-2, for x > 4:
_TAIL = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def erfc(x: np.ndarray) -> np.ndarray:
    """2 / sqrt(pi) * the integral of exp(-t**2) from x to infinity, to a few units in the last place."""
    size = np.abs(x)
    result = np.full_like(x, np.nan)

    near = size <= 0.46875
    z = x[near]
    result[near] = 1 - z * ratio(_CENTER, z * z)

    flank = (size > 0.46875) & (size <= 4)
    z = size[flank]
    result[flank] = _exp_minus_square(z) * ratio(_FLANK, z)

    tail = size > 4
    z = np.minimum(size[tail], 30)  # erfc(30) is 0 in every dtype, and 30 * 30 is still finite
    inverse_square = 1 / (z * z)
    result[tail] = _exp_minus_square(z) / z * (1 / math.sqrt(math.pi) - inverse_square * ratio(_TAIL, inverse_square))

    return np.where((x < 0) & ~near, 2 - result, result)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Phi(x), through erfc, which stays accurate for large negative x."""
    return 0.5 * erfc(x * -math.sqrt(0.5))


def normal_pdf(x: np.ndarray) -> np.ndarray:
    """exp(-x**2 / 2) / sqrt(2 * pi)."""
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _exp_minus_square(x: np.ndarray) -> np.ndarray:
    """exp(-x**2), split at a nearby multiple of 1/16 with an exact square, since exp amplifies the rounding of x**2."""
    head = np.trunc(x * 16) / 16
    return np.exp(-head * head) * np.exp(-(x - head) * (x + head))
