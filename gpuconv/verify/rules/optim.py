"""Optimizer steps, gradient clipping and the loss scale."""

from __future__ import annotations

import itertools

import numpy as np

from gpuconv import ops
from gpuconv.backends.reference.muon import muon_step, newton_schulz, orthogonal, stored
from gpuconv.dtypes import accumulation_dtype
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ
from gpuconv.types import Options
from gpuconv.verify.bounds import UNIT_ROUNDOFF_TF32, accumulation, rounding
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.base import Arrays, Rule, exact_results, number_of


def unless_skipped(rule: Rule) -> Rule:
    """The rule of an optimizer step that changes nothing if its scaling says that a gradient overflowed."""

    def with_skips(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        *_, scaling, _ = arrays
        skips = scaling is not None and scaling[1] == 0
        if not skips:
            return rule(op, arrays, options, dtype)
        # Nothing is multiplied, and muon_step refuses lower precisions for float64 arrays.
        plain = {name: value for name, value in options.items() if name != "precision"}
        return exact_results(op, arrays, plain)

    return with_skips


@unless_skipped
def optimizer(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The params, state, masters and averages after the step. The arrays are the op's: params, grads, state, masters,
    scaling, averages.

    The rounding errors of a parameter's formula are bounded like those of a sum of 16 products. The errors of a state's
    formula are bounded like those of a sum of 8."""
    *first, masters, scaling, averages = arrays
    lists = [group for group in (*first, masters) if isinstance(group, list)]
    before = [[a.copy() for a in group] for group in lists]
    updated_before = before[-1 if masters else 0]  # the formula updates the masters, if there are any, else the params
    averages_before = [a.copy() for a in averages or ()]
    getattr(ops, op)(*arrays, **options)
    unscale, skipped = (1.0, 0.0) if scaling is None else scaling[[1, 3]]
    state_dtype = _state_dtype(dtype, masters)
    states = lists[2 : len(lists) - bool(masters)]
    decays = options.get("weight_decay", 0.0)
    decay = max(decays) if isinstance(decays, (tuple, list)) else decays
    of_params: list[Expected] = []
    of_states: list[list[Expected]] = [[] for _ in states]
    of_masters: list[Expected] = []
    for index, param in enumerate(lists[0]):
        old = updated_before[index]
        grad = np.abs(before[1][index]) * unscale + decay * np.abs(old)
        moved = np.abs(param - old) + _step_size(op, [group[index] for group in states], grad, options, skipped)
        error = accumulation(dtype, 16, np.abs(old) + moved) + (rounding(state_dtype, param) if masters else 0)
        if op == "lion_step":
            error = error + _sign_error(before[2][index], before[1][index] * unscale, options, dtype)
        of_params.append(Expected(f"param {index}", param, error + rounding(dtype, param)))
        for slot, group in enumerate(states):
            old_size = np.abs(before[2 + slot][index])
            is_mean = op in ("sgd_step", "lion_step") or (op == "adam_step" and slot == 0)
            size = old_size + (grad if is_mean else grad**2)
            bound = accumulation(dtype, 8, size) + rounding(state_dtype, group[index])
            of_states[slot].append(Expected(f"state {slot} of param {index}", group[index], bound))
        if masters:
            of_masters.append(Expected(f"master {index}", masters[index], error))
    of_averages = _averages(averages, averages_before, of_masters or of_params, options, state_dtype)
    return [*of_params, *itertools.chain(*of_states), *of_masters, *of_averages]


def _state_dtype(dtype: np.dtype, masters: list[np.ndarray] | None) -> np.dtype:
    """The dtype of state, masters and averages."""
    return accumulation_dtype(np.dtype(dtype)) if masters else dtype


def _averages(
    averages: list[np.ndarray] | None,
    before: list[np.ndarray],
    of_params: list[Expected],
    options: Options,
    state_dtype: np.dtype,
) -> list[Expected]:
    """The averages after the step; they inherit a share of a parameter's error. state_dtype: their dtype."""
    found = []
    for index, (average, old, param) in enumerate(zip(averages or (), before, of_params)):
        size = np.abs(old) + np.abs(param.value)
        share = 1 - options.get("ema", 0.999)
        error = share * param.bound + accumulation(state_dtype, 3, size) + rounding(state_dtype, average)
        found.append(Expected(f"average {index}", average, error))
    return found


def clip_norm(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    clipped, grads, scaling = arrays
    ops.clip_norm(clipped, grads, scaling, **options)
    return [Expected("clipped", clipped, accumulation(np.float64, sum(grad.size for grad in grads), clipped))]


def clip_values(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    grads, scaling = arrays
    before = [grad.copy() for grad in grads]
    ops.clip_values(grads, scaling, **options)
    bounds = [np.where(now == old, 0.0, 2 * rounding(dtype, now)) for now, old in zip(grads, before)]
    return [Expected(f"grads {index}", grad, bound) for index, (grad, bound) in enumerate(zip(grads, bounds))]


def loss_scale(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    scaling, grads = arrays
    ops.update_loss_scale(scaling, grads, **options)
    return [Expected("scaling", scaling, 0.0)]


def _step_size(op: str, states: Arrays, grad: np.ndarray, options: Options, skipped: float) -> np.ndarray:
    """The magnitude of the update, with the absolute values of all its terms."""
    lr = number_of(options, "lr")
    if op == "lion_step":
        return np.full_like(grad, lr)
    if op == "sgd_step":
        return lr * 2 * (grad + (np.abs(states[0]) if states else 0))
    if op == "adam_step":
        m, v = states
        step = number_of(options, "step") - skipped
        m_share, v_share = 1 - options.get("beta1", 0.9) ** step, 1 - options.get("beta2", 0.999) ** step
        # In float32, 1 - beta**step would lose digits in the first steps; kernels compute it in double.
        return lr * (np.abs(m) + grad) / m_share / (np.sqrt(v / v_share) + options.get("eps", 1e-8))
    return lr * grad / (np.sqrt(states[0]) + options.get("eps", 1e-10 if op == "adagrad_step" else 1e-8))


def _sign_error(mean: np.ndarray, grad: np.ndarray, options: Options, dtype: np.dtype) -> np.ndarray:
    """The error of Lion's step from a wrong sign: twice the rate where rounding may flip the sign, and 0 elsewhere."""
    beta = options.get("beta1", 0.9)
    terms = beta * mean, (1 - beta) * grad
    may_flip = np.abs(sum(terms)) <= accumulation(dtype, 4, sum(map(np.abs, terms)))
    return np.where(may_flip, 2 * number_of(options, "lr"), 0.0)


@unless_skipped
def muon(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """As `optimizer`; `_newton_schulz` bounds the error of the orthogonal direction."""
    *_, masters, scaling, averages = arrays
    averages_before = [a.copy() for a in averages or ()]
    params, grads, velocities = ([a.copy() for a in group] for group in (masters or arrays[0], *arrays[1:3]))
    lr, momentum, nesterov = options["lr"], options.get("momentum", 0.0), options.get("nesterov", False)
    steps, precision = options.get("steps", 5), options.get("precision", "full")
    ema = options.get("ema", 0.999)
    # The reference is called directly, because the op refuses lower precisions for float64 arrays.
    muon_step(*arrays, lr=lr, momentum=momentum, nesterov=nesterov, steps=steps, precision=precision, ema=ema)
    unscale = 1.0 if scaling is None else scaling[1]
    state_dtype = _state_dtype(dtype, masters)
    of_params: list[Expected] = []
    of_velocities: list[Expected] = []
    of_masters: list[Expected] = []
    for index, (param, grad, velocity) in enumerate(zip(params, grads, velocities)):
        after, v = arrays[0][index], arrays[2][index]
        size = momentum * np.abs(velocity) + np.abs(grad) * unscale
        error = np.zeros(param.shape)
        if param.size:
            direction = (grad * unscale + momentum * v if nesterov else v).reshape(len(param), -1)
            wide = direction if len(direction) <= len(direction.T) else direction.T
            length = np.linalg.norm(direction) + EPS
            initial_error = float(np.linalg.norm(accumulation(dtype, 4, 2 * size)) / length)
            initial_error += float(accumulation(dtype, param.size, 1.0))
            update = lr * orthogonal(direction, steps, precision).reshape(param.shape)
            error = lr * _newton_schulz(wide / length, steps, initial_error, dtype, precision)
            error = error + accumulation(dtype, 4, update)
            error = error + accumulation(dtype, param.size + 4, after + update) + rounding(state_dtype, after)
        of_params.append(Expected(f"param {index}", after, error + rounding(dtype, after)))
        of_velocities.append(Expected(f"velocity {index}", v, accumulation(dtype, 4, size) + rounding(state_dtype, v)))
        if masters:
            of_masters.append(Expected(f"master {index}", masters[index], error))
    return (
        of_params
        + of_velocities
        + of_masters
        + _averages(averages, averages_before, of_masters or of_params, options, state_dtype)
    )


def _newton_schulz(x: np.ndarray, steps: int, error: float, dtype: np.dtype, precision: str) -> float:
    """A bound on the Frobenius norm of the error after Newton-Schulz steps from x (rows <= columns). error: such a
    bound for x.

    A step applies p(s) = a s + b s^3 + c s^5 to the singular values. This is the matrix function p of the Hermitian
    matrix [[0, x], [x^T, 0]]. By the theorem of Daleckii and Krein on divided differences, a step therefore multiplies
    an error by at most the largest |p'| between 0 and x's norm. It also adds the rounding errors of its products and
    sums. The oracle and the device round to TF32 or bfloat16 at the same places, so where their values are equal, the
    rounded values are equal too.
    """
    a, b, c = NEWTON_SCHULZ
    # Two factors, each rounded by the oracle and by the device.
    factors = 4 * UNIT_ROUNDOFF_TF32 if precision == "tf32" else 0.0

    def storing_error(matrix: np.ndarray) -> float:
        return float(np.linalg.norm(rounding("bfloat16", matrix))) if precision == "bfloat16" else 0.0

    def product_error(length: int, magnitude: np.ndarray) -> float:
        return float(np.linalg.norm(accumulation(dtype, length, magnitude) + factors * magnitude))

    rows, columns = x.shape
    x, error = stored(x, precision), error + storing_error(x)
    for _ in range(steps):
        norm = np.linalg.norm(x, 2) + error
        s = np.linspace(0, norm, 1000)
        slope = np.abs(a + 3 * b * s**2 + 5 * c * s**4).max()
        gram, m, after = newton_schulz(x, precision)
        size = np.abs(x)
        gram_error = product_error(columns, size @ size.T) + storing_error(gram)
        square_error = product_error(rows, np.abs(gram) @ np.abs(gram))
        m_error = (abs(b) + 2 * c * norm**2) * gram_error + c * square_error + storing_error(m)
        m_error += np.linalg.norm(accumulation(dtype, 3, abs(b) * np.abs(gram) + c * np.abs(gram @ gram)))
        own = m_error * norm + product_error(rows, np.abs(m) @ size) + storing_error(after)
        own += np.linalg.norm(accumulation(dtype, 3, a * size + np.abs(m @ x)))
        x, error = after, slope * error + own
    return error
