"""Numerical gradients in float64, by central differences: of each entry, or along a few directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def numerical_gradient(f: Callable[[], np.ndarray], x: np.ndarray, dy: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d sum(f() * dy) / dx, where f reads x (float64, changed and restored in place)."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        original = x[index]
        x[index] = original + step
        above = f()
        x[index] = original - step
        below = f()
        x[index] = original
        gradient[index] = np.sum((above - below) * dy) / (2 * step)
    return gradient


def assert_gradient(
    gradient: np.ndarray,
    f: Callable[[], np.ndarray],
    x: np.ndarray,
    dy: np.ndarray,
    name: str = "",
    directions: int = 4,
) -> None:
    """Checks `gradient`, d sum(f() * dy) / dx, by its slopes along random directions. A wrong entry changes the slope
    along every direction, so a few pairs of calls suffice, where `numerical_gradient` needs one for each entry."""
    assert gradient.shape == x.shape, name
    original, step = x.copy(), 1e-5
    for direction in np.random.default_rng(6).normal(size=(directions, *x.shape)):
        direction /= np.linalg.norm(direction)
        x[:] = original + step * direction
        above = f()
        x[:] = original - step * direction
        below = f()
        x[:] = original
        slope, terms = np.sum((above - below) * dy) / (2 * step), gradient * direction
        np.testing.assert_allclose(terms.sum(), slope, rtol=0, atol=1e-8 + 1e-6 * np.abs(terms).sum(), err_msg=name)
