"""The factors by which mixup and cutmix mix images: quantiles of the distribution Beta(alpha, alpha)."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_BISECTIONS = 64  # they shrink a range of 800 to less than float64 resolves


@functools.lru_cache(maxsize=16)
def quantiles(alpha: float, count: int = 4096) -> NDArray[np.float32]:
    """The quantiles of Beta(alpha, alpha) at (i + 1/2) / count, float32 (count,), read-only.

    Args:
        alpha: Above 0.
        count: Even.
    """
    p = (np.arange(count // 2) + 0.5) / count
    low, high = np.full(p.shape, -800.0), np.full(p.shape, np.log(0.5))  # the range of log x; exp(-800) is 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = _distribution(middle, alpha) > p
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    x = np.exp(high)
    found = np.concatenate([x, 1 - x[::-1]]).astype(np.float32)
    found.flags.writeable = False
    return found


def _distribution(log_x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """P(X <= x) for x <= 1/2. There it is proportional to (x (1 - x))^alpha F(2 alpha, 1; alpha + 1; x) (Abramowitz and
    Stegun, 26.5.4); the factor follows from P(X <= 1/2) = 1/2."""
    x = np.append(np.exp(log_x), 0.5)
    term, series, n = np.ones_like(x), np.ones_like(x), 0
    while term.max() > 1e-16 * series.max():  # smaller terms are lost in float64
        term *= (2 * alpha + n) / (alpha + 1 + n) * x
        series += term
        n += 1
    return 0.5 * np.exp(alpha * (np.log(4) + log_x + np.log1p(-x[:-1]))) * series[:-1] / series[-1]
