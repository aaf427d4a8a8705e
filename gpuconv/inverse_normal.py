"""The inverse of the normal distribution function: the same bits on every machine, from IEEE operations alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuconv.polynomials import horner, ratio

# Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics
# 37 (1988), routine PPND16: rational functions, relative accuracy about 1e-16. Highest power first.
_CENTER = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_TAIL = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_LN2 = 0.6931471805599453094
_SQRT_HALF = 0.7071067811865475244
_ATANH = tuple(1.0 / k for k in range(23, 0, -2))  # atanh(s) / s = 1 + s^2/3 + s^4/5 + ...


def inverse_normal_cdf(p: NDArray[np.floating]) -> NDArray[np.floating]:
    """The z with P(Z <= z) = p for `p` in [2^-33, 1 - 2^-33], float64 of p's shape.

    AS 241 has a third piece for p below exp(-25) = 1.4e-11, which is not needed here: 2^-33 is larger.
    """
    q = p - 0.5
    z = q * ratio(_CENTER, 0.180625 - q * q)
    tail = np.abs(q) > 0.425
    q = q[tail]
    p = p[tail]
    r = np.sqrt(-log(np.minimum(p, 1.0 - p))) - 1.6
    z[tail] = np.copysign(ratio(_TAIL, r), q)
    return z


def log(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Natural logarithm of `x`, positive normal float64, from IEEE operations alone (a few ulp).

    x = m 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m - 1) / (m + 1)), whose argument is
    at most 0.172, so that twelve terms of the series reach the last bit.
    """
    m, e = np.frexp(x)
    small = m < _SQRT_HALF
    m = np.where(small, m + m, m)
    s = (m - 1.0) / (m + 1.0)
    return (e - small) * _LN2 + (s + s) * horner(_ATANH, s * s)
