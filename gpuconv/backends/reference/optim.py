"""Optimizer steps. Each formula gives a parameter and its state after the step, from float64 copies."""

import numpy as np

from gpuconv.backends.reference.precision import number, round_to, wide
from gpuconv.shapes import NEWTON_SCHULZ


def sgd_step(
    params, grads, velocities=None, masters=None, scaling=None, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0
):
    def formula(decay, p, g, v=0.0):
        g = g + decay * p
        v = momentum * v + g
        return p - number(lr) * (g + momentum * v if nesterov else v), v

    _step(formula, weight_decay, scaling, masters, params, grads, *([] if velocities is None else [velocities]))


def adagrad_step(params, grads, square_sums, masters=None, scaling=None, *, lr, eps=1e-10, weight_decay=0.0):
    def formula(decay, p, g, s):
        g = g + decay * p
        s = s + g**2
        return p - number(lr) * g / (np.sqrt(s) + eps), s

    _step(formula, weight_decay, scaling, masters, params, grads, square_sums)


def rmsprop_step(
    params, grads, square_averages, masters=None, scaling=None, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0
):
    def formula(decay, p, g, s):
        g = g + decay * p
        s = alpha * s + (1 - alpha) * g**2
        return p - number(lr) * g / (np.sqrt(s) + eps), s

    _step(formula, weight_decay, scaling, masters, params, grads, square_averages)


def adam_step(
    params, grads, exp_avgs, exp_avg_sqs, masters=None, scaling=None, *, lr, step, beta1=0.9, beta2=0.999, eps=1e-8,
    weight_decay=0.0, decoupled=False,
):
    t = number(step) - (0 if scaling is None else scaling[3])  # without the steps that were skipped

    def formula(decay, p, g, m, v):
        if decoupled:
            p = p * (1 - number(lr) * decay)
        else:
            g = g + decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        return p - number(lr) * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v

    _step(formula, weight_decay, scaling, masters, params, grads, exp_avgs, exp_avg_sqs)


def muon_step(params, grads, velocities, masters=None, scaling=None, *, lr, momentum=0.0, nesterov=False, steps=5):
    def formula(_, p, g, v):
        v = momentum * v + g
        direction = g + momentum * v if nesterov else v
        turned = orthogonal(direction.reshape(len(p), -1), steps).reshape(p.shape) if p.size else p
        length = np.sqrt((p**2).sum())
        return p * (np.sqrt(len(p)) / length if length else 1.0) - number(lr) * turned, v

    _step(formula, [0.0] * len(params), scaling, masters, params, grads, velocities)


def orthogonal(x: np.ndarray, steps: int) -> np.ndarray:
    """A matrix with its singular values brought near 1 by Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    x = x / (np.sqrt((x**2).sum()) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = (a * np.eye(len(x)) + b * gram + c * gram @ gram) @ x
    return x


def _step(formula, decays, scaling, masters, params, grads, *states):
    """param, *state = formula(decay, param, grad, *state) for each entry; or master, and param is rounded from that."""
    unscale = 1.0 if scaling is None else scaling[1]
    if unscale == 0:  # the loss scale overflowed: this step is skipped
        return
    for decay, param, master, grad, *state in zip(decays, params, masters or params, grads, *states):
        results = formula(decay, wide(master), wide(grad) * unscale, *map(wide, state))
        for array, result in zip((master, *state), results):
            round_to(result, array.dtype, array)
        if master is not param:
            round_to(wide(master), param.dtype, param)


def update_loss_scale(scaling, grads, *, growth=2.0, backoff=0.5, interval=2000):
    scale, _, good_steps, skipped = scaling
    if not all(np.isfinite(wide(grad)).all() for grad in grads):
        scaling[:] = scale * backoff, 0, 0, skipped + 1
    elif good_steps + 1 >= interval:
        scaling[:] = scale * growth, 1 / scale, 0, skipped
    else:
        scaling[:] = scale, 1 / scale, good_steps + 1, skipped
