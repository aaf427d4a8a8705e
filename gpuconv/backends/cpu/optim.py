"""Optimizer steps. Each formula updates one block of a parameter and its state in place; half precision is computed
in float32 and rounded once. With masters, the formula updates these, and the parameters are rounded from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gpuconv.backends.cpu.elementwise import update
from gpuconv.backends.cpu.precision import store
from gpuconv.host_values import value_of


def sgd_step(params, grads, velocities, masters, scaling, averages, *, lr, momentum, nesterov, weight_decay, ema):
    lr = value_of(lr)

    def plain(decay, param, grad):
        param -= lr * (grad + decay * param)

    def with_velocity(decay, param, v, grad):
        grad = grad + decay * param
        v *= momentum
        v += grad
        param -= lr * (grad + momentum * v if nesterov else v)

    if velocities is None:
        _update_each(plain, weight_decay, scaling, masters, averages, ema, params, grads)
    else:
        _update_each(with_velocity, weight_decay, scaling, masters, averages, ema, params, grads, velocities)


def adagrad_step(params, grads, square_sums, masters, scaling, averages, *, lr, eps, weight_decay, ema):
    lr = value_of(lr)

    def formula(decay, param, s, grad):
        grad = grad + decay * param
        s += grad * grad
        param -= lr * grad / (np.sqrt(s) + eps)

    _update_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, square_sums)


def rmsprop_step(params, grads, square_averages, masters, scaling, averages, *, lr, alpha, eps, weight_decay, ema):
    lr = value_of(lr)

    def formula(decay, param, s, grad):
        grad = grad + decay * param
        s *= alpha
        s += (1 - alpha) * grad * grad
        param -= lr * grad / (np.sqrt(s) + eps)

    _update_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, square_averages)


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
    skipped = 0 if scaling is None else int(scaling[3])
    lr, step = value_of(lr), value_of(step) - skipped
    # The total weight of the gradients in m and v; the rest is the weight of their initial zeros.
    m_share, v_share = 1 - beta1**step, 1 - beta2**step

    def formula(decay, param, m, v, grad):
        if decoupled:
            param *= 1 - lr * decay
        else:
            grad = grad + decay * param
        m *= beta1
        m += (1 - beta1) * grad
        v *= beta2
        v += (1 - beta2) * grad * grad
        param -= lr * (m / m_share) / (np.sqrt(v / v_share) + eps)

    _update_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, exp_avgs, exp_avg_sqs)


def lion_step(params, grads, exp_avgs, masters, scaling, averages, *, lr, beta1, beta2, weight_decay, ema):
    lr = value_of(lr)

    def formula(decay, param, m, grad):
        sign = np.sign(beta1 * m + (1 - beta1) * grad)
        param *= 1 - lr * decay
        param -= lr * sign
        m *= beta2
        m += (1 - beta2) * grad

    _update_each(formula, weight_decay, scaling, masters, averages, ema, params, grads, exp_avgs)


def _update_each(
    formula: Callable[..., None],
    decays: Sequence[float],
    scaling: np.ndarray | None,
    masters: Sequence[np.ndarray] | None,
    averages: Sequence[np.ndarray] | None,
    ema: float,
    params: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    *states: Sequence[np.ndarray],
) -> None:
    """Apply formula(decay, param, *state, grad) to every parameter, then update the averages. After an overflow of the
    scaled gradients, where scaling[1] is 0, the step is skipped."""
    unscale = 1.0 if scaling is None else float(scaling[1])
    if not unscale:
        return

    def unscaled(decay: float, *blocks: np.ndarray) -> None:
        *updated, grad = blocks
        formula(decay, *updated, grad * unscale)

    for decay, param, master, grad, *state in zip(decays, params, masters or params, grads, *states):
        update(partial(unscaled, decay), master, *state, given=grad)
        if master is not param:
            store(master, param.dtype, param)
    move_averages(averages, masters or params, ema)


def move_averages(averages: Sequence[np.ndarray] | None, params: Sequence[np.ndarray], decay: float) -> None:
    """average = decay * average + (1 - decay) * param."""

    def formula(average: np.ndarray, param: np.ndarray) -> None:
        average += (1 - decay) * (param - average)

    for average, param in zip(averages or (), params):
        update(formula, average, given=param)


def clip_norm(clipped, grads, scaling, *, max_norm):
    scale, unscale, good, skipped = (1.0, 1.0, 0.0, 0.0) if scaling is None else scaling.tolist()
    squares = sum(float(np.square(grad.astype(np.float64)).sum()) for grad in grads)
    norm = unscale * math.sqrt(squares)
    factor = min(1.0, max_norm / (norm + 1e-6)) if math.isfinite(norm) else math.nan
    clipped[:] = scale, unscale * factor if unscale else 0.0, good, skipped


def clip_values(grads, scaling, *, clip_value):
    unscale = 1.0 if scaling is None else float(scaling[1])
    if not unscale:
        return
    limit = clip_value / unscale

    def formula(clipped, grad):
        np.clip(grad, -limit, limit, out=clipped)

    for grad in grads:
        update(formula, grad, given=grad)


def update_loss_scale(scaling, grads, *, growth, backoff, interval):
    scale, overflow = scaling[0], not all(np.isfinite(grad).all() for grad in grads)
    scaling[1] = 0 if overflow else 1 / scale
    scaling[2] = 0 if overflow else scaling[2] + 1
    scaling[3] += overflow
    if overflow:
        scaling[0] = scale * backoff
    elif scaling[2] >= interval:
        scaling[0], scaling[2] = scale * growth, 0
