"""Optimizer steps. Each formula computes, in float64, a parameter and its state after the step."""

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide
from gpuconv.host_values import value_of


def sgd_step(params, grads, velocities, masters, scaling, averages, *, lr, momentum, nesterov, weight_decay, ema):
    def formula(decay, p, g, v=0.0):
        g = g + decay * p
        v = momentum * v + g
        return p - value_of(lr) * (g + momentum * v if nesterov else v), v

    states = [] if velocities is None else [velocities]
    step_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, *states)


def adagrad_step(params, grads, square_sums, masters, scaling, averages, *, lr, eps, weight_decay, ema):
    def formula(decay, p, g, s):
        g = g + decay * p
        s = s + g**2
        return p - value_of(lr) * g / (np.sqrt(s) + eps), s

    step_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, square_sums)


def rmsprop_step(params, grads, square_averages, masters, scaling, averages, *, lr, alpha, eps, weight_decay, ema):
    def formula(decay, p, g, s):
        g = g + decay * p
        s = alpha * s + (1 - alpha) * g**2
        return p - value_of(lr) * g / (np.sqrt(s) + eps), s

    step_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, square_averages)


def adam_step(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    masters,
    scaling,
    averages,
    *,
    lr,
    step,
    beta1,
    beta2,
    eps,
    weight_decay,
    decoupled,
    ema,
):
    t = value_of(step) - (0 if scaling is None else scaling[3])  # not counting skipped steps

    def formula(decay, p, g, m, v):
        if decoupled:
            p = p * (1 - value_of(lr) * decay)
        else:
            g = g + decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        return p - value_of(lr) * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v

    step_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, exp_avgs, exp_avg_sqs)


def lion_step(params, grads, exp_avgs, masters, scaling, averages, *, lr, beta1, beta2, weight_decay, ema):
    def formula(decay, p, g, m):
        sign = np.sign(beta1 * m + (1 - beta1) * g)
        return p - value_of(lr) * (sign + decay * p), beta2 * m + (1 - beta2) * g

    step_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, exp_avgs)


def step_each(formula, decays, scaling, masters, averages, ema, params, grads, *states):
    """param, *state = formula(decay, param, grad, *state) for each parameter; with masters, the master is updated, and
    param is rounded from it. Averages are updated with the formula's result before rounding."""
    unscale = 1.0 if scaling is None else scaling[1]
    if unscale == 0:  # a gradient is not finite: this step is skipped
        return
    masters, averages = masters or params, averages or [None] * len(params)
    for decay, param, master, grad, average, *state in zip(decays, params, masters, grads, averages, *states):
        results = formula(decay, wide(master), wide(grad) * unscale, *map(wide, state))
        for array, result in zip((master, *state), results):
            round_to(result, array.dtype, array)
        if master is not param:
            round_to(wide(master), param.dtype, param)
        if average is not None:
            round_to(ema * wide(average) + (1 - ema) * results[0], average.dtype, average)


def clip_norm(clipped, grads, scaling, *, max_norm):
    scale, unscale, good_steps, skipped = (1.0, 1.0, 0.0, 0.0) if scaling is None else scaling
    norm = unscale * np.sqrt(sum((wide(grad) ** 2).sum() for grad in grads))
    factor = min(1.0, max_norm / (norm + 1e-6)) if np.isfinite(norm) else np.nan
    clipped[:] = scale, unscale * factor if unscale else 0.0, good_steps, skipped


def clip_values(grads, scaling, *, clip_value):
    unscale = 1.0 if scaling is None else scaling[1]
    limit = clip_value / unscale if unscale else np.inf
    for grad in grads:
        round_to(np.clip(wide(grad), -limit, limit), grad.dtype, grad)


def update_loss_scale(scaling, grads, *, growth, backoff, interval):
    scale, _, good_steps, skipped = scaling
    if not all(np.isfinite(wide(grad)).all() for grad in grads):
        scaling[:] = scale * backoff, 0, 0, skipped + 1
    elif good_steps + 1 >= interval:
        scaling[:] = scale * growth, 1 / scale, 0, skipped
    else:
        scaling[:] = scale, 1 / scale, good_steps + 1, skipped
