"""Muon: momentum with an orthogonalized direction."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.optim import move_averages
from gpuconv.backends.cpu.parallel import matmul
from gpuconv.backends.cpu.precision import factors, store, widen
from gpuconv.dtypes import as_dtype
from gpuconv.host_values import value_of
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ


def muon_step(params, grads, velocities, masters, scaling, averages, *, lr, momentum, nesterov, steps, precision, ema):
    lr = value_of(lr)
    unscale = 1.0 if scaling is None else float(scaling[1])
    if not unscale:
        return
    for param, grad, velocity, master in zip(params, grads, velocities, masters or params):
        if not param.size:
            continue
        p, g = widen(master), widen(grad) * unscale
        v = momentum * widen(velocity) + g
        direction = g + momentum * v if nesterov else v
        x = _orthogonal(direction.reshape(len(p), -1), steps, precision).reshape(p.shape)
        length = math.sqrt(np.sum(p * p))
        moved = p * (math.sqrt(len(p)) / length if length else 1.0) - lr * x
        store(v, velocity.dtype, velocity)
        store(moved, master.dtype, master)
        if master is not param:
            store(master, param.dtype, param)
    move_averages(averages, masters or params, ema)


def _orthogonal(x: np.ndarray, steps: int, precision: str) -> np.ndarray:
    """x (rows, columns) after Newton-Schulz steps, which bring its singular values near 1. Each step is
    x = a x + (b x x^T + c (x x^T)^2) x. A matrix with more rows than columns is transposed before the steps and
    back afterwards."""
    if x.shape[0] > x.shape[1]:
        return _orthogonal(x.T, steps, precision).T
    stored_dtype = as_dtype("bfloat16") if precision == "bfloat16" else x.dtype
    tf32 = precision == "tf32"

    def stored(x: np.ndarray) -> np.ndarray:
        return x.astype(stored_dtype, copy=False).astype(x.dtype, copy=False)

    a, b, c = (x.dtype.type(value) for value in NEWTON_SCHULZ)
    x = stored(x / (np.sqrt(np.sum(x * x)) + x.dtype.type(EPS)))
    for _ in range(steps):
        (factor,) = factors(tf32, x)
        gram = stored(matmul(factor, factor.T))
        (rounded,) = factors(tf32, gram)
        (m,) = factors(tf32, stored(b * gram + c * matmul(rounded, rounded)))
        x = stored(a * x + matmul(m, factor))
    return x
