"""Muon: momentum with an orthogonalized direction."""

import numpy as np

from gpuconv.backends.reference.optim import step_each
from gpuconv.backends.reference.precision import factors, number
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ


def muon_step(params, grads, velocities, masters, scaling, averages, *, lr, momentum, nesterov, steps, tf32, ema):
    def formula(_, p, g, v):
        v = momentum * v + g
        direction = g + momentum * v if nesterov else v
        turned = orthogonal(direction.reshape(len(p), -1), steps, tf32).reshape(p.shape) if p.size else p
        length = np.sqrt((p**2).sum())
        return p * (np.sqrt(len(p)) / length if length else 1.0) - number(lr) * turned, v

    decays = [0.0] * len(params)
    step_each(formula, decays, scaling, masters, averages, ema, params, grads, velocities)


def orthogonal(x: np.ndarray, steps: int, tf32: bool) -> np.ndarray:
    """A matrix after Newton-Schulz steps, which bring its singular values near 1."""
    if len(x) > len(x.T):
        return orthogonal(x.T, steps, tf32).T
    a, b, c = NEWTON_SCHULZ
    x = x / (np.sqrt((x**2).sum()) + EPS)
    for _ in range(steps):
        (x,) = factors(tf32, x)
        gram = x @ x.T
        (rounded,) = factors(tf32, gram)
        (m,) = factors(tf32, a * np.eye(len(x)) + b * gram + c * rounded @ rounded)
        x = m @ x
    return x
