"""Muon: momentum with an orthogonalized direction."""

import numpy as np

from gpuconv.backends.reference.optim import step_each
from gpuconv.backends.reference.precision import factors, round_to, wide
from gpuconv.dtypes import as_dtype
from gpuconv.host_values import value_of
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ


def muon_step(params, grads, velocities, masters, scaling, averages, *, lr, momentum, nesterov, steps, precision, ema):
    def formula(_, p, g, v):
        v = momentum * v + g
        direction = g + momentum * v if nesterov else v
        update = orthogonal(direction.reshape(len(p), -1), steps, precision).reshape(p.shape) if p.size else p
        length = np.sqrt((p**2).sum())
        return p * (np.sqrt(len(p)) / length if length else 1.0) - value_of(lr) * update, v

    decays = [0.0] * len(params)
    step_each(formula, decays, scaling, masters, averages, ema, params, grads, velocities)


def orthogonal(x: np.ndarray, steps: int, precision: str) -> np.ndarray:
    """A matrix after Newton-Schulz steps, which bring its singular values near 1."""
    if len(x) > len(x.T):
        return orthogonal(x.T, steps, precision).T
    x = stored(x / (np.sqrt((x**2).sum()) + EPS), precision)
    for _ in range(steps):
        _, _, x = newton_schulz(x, precision)
    return x


def newton_schulz(x: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step: G = x x^T, M = b G + c G G, and the new x = a x + M x."""
    a, b, c = NEWTON_SCHULZ
    (factor,) = factors(precision == "tf32", x)
    gram = stored(factor @ factor.T, precision)
    (rounded,) = factors(precision == "tf32", gram)
    m = stored(b * gram + c * rounded @ rounded, precision)
    (multiplier,) = factors(precision == "tf32", m)
    return gram, m, stored(a * x + multiplier @ factor, precision)


def stored(x: np.ndarray, precision: str) -> np.ndarray:
    """A matrix as it is stored between the products: rounded if the precision is bfloat16."""
    return wide(round_to(x, as_dtype("bfloat16"))) if precision == "bfloat16" else x
