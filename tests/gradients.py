"""Numerical gradients in float64, by central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def numerical_gradient(f: Callable[[], np.ndarray], x: np.ndarray, dy: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d sum(f() * dy) / dx, where f reads x (float64, changed and restored in place)."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f()
        x[index] = kept - step
        below = f()
        x[index] = kept
        gradient[index] = np.sum((above - below) * dy) / (2 * step)
    return gradient
