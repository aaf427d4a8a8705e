"""Optimizer steps. Each formula updates one block of a parameter and its state in place; half precision is computed
in float32 and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpuconv.backends.reference.elementwise import update

__all__ = ["adagrad_step", "adam_step", "rmsprop_step", "sgd_step"]


def sgd_step(params, grads, velocities=None, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    lr = _value(lr)

    def plain(decay, param, grad):
        param -= lr * (grad + decay * param)

    def with_velocity(decay, param, v, grad):
        grad = grad + decay * param
        v *= momentum
        v += grad
        param -= lr * (grad + momentum * v if nesterov else v)

    if velocities is None:
        _update_each(plain, weight_decay, grads, params)
    else:
        _update_each(with_velocity, weight_decay, grads, params, velocities)


def adagrad_step(params, grads, square_sums, *, lr, eps=1e-10, weight_decay=0.0):
    lr = _value(lr)

    def formula(decay, param, s, grad):
        grad = grad + decay * param
        s += grad * grad
        param -= lr * grad / (np.sqrt(s) + eps)

    _update_each(formula, weight_decay, grads, params, square_sums)


def rmsprop_step(params, grads, square_averages, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0):
    lr = _value(lr)

    def formula(decay, param, s, grad):
        grad = grad + decay * param
        s *= alpha
        s += (1 - alpha) * grad * grad
        param -= lr * grad / (np.sqrt(s) + eps)

    _update_each(formula, weight_decay, grads, params, square_averages)


def adam_step(
    params, grads, exp_avgs, exp_avg_sqs, *, lr, step, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
    decoupled=False,
):
    lr, step = _value(lr), _value(step)
    m_share, v_share = 1 - beta1**step, 1 - beta2**step  # how much of m and v is not their start at zero

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

    _update_each(formula, weight_decay, grads, params, exp_avgs, exp_avg_sqs)


def _value(scalar: Any) -> Any:
    """A number, out of its one-element array where it comes in one."""
    return scalar.item() if isinstance(scalar, np.ndarray) else scalar


def _update_each(
    formula: Callable[..., None], decays: Sequence[float], grads: Sequence[np.ndarray], *updated: Sequence[np.ndarray]
) -> None:
    for decay, grad, *arrays in zip(decays, grads, *updated):
        update(partial(formula, decay), *arrays, given=grad)
