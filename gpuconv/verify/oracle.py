"""What each op must give: the oracle's result in float64, and how far a device's may lie from it.

The inputs are numbers of the device's own dtype, so float64 holds them exactly. Where the oracle only adds and
multiplies, its own value on absolute inputs is the magnitude that a bound scales with. Ops that draw random numbers or
only pick values must give the oracle's very bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.backends.reference.optim import orthogonal
from gpuconv.backends.reference.precision import round_tf32
from gpuconv.dtypes import accumulation_dtype
from gpuconv.shapes import NEWTON_SCHULZ
from gpuconv.verify.bounds import UNIT_ROUNDOFF, accumulated, rounded, sum_bound

Arrays = Sequence[Any]


@dataclass(frozen=True)
class Expected:
    """One result of an op: its name, the value, and the bound on |result - value| (0: the same bits)."""

    name: str
    value: np.ndarray
    bound: Any


def wide(x: Any) -> Any:
    """Float arrays in float64, absolute values untouched; lists entry by entry, anything else as it is."""
    if isinstance(x, list):
        return [wide(entry) for entry in x]
    is_float = isinstance(x, np.ndarray) and x.dtype.kind not in "iub"
    return x.astype(np.float64) if is_float else x


def magnitude_of(x: Any) -> Any:
    return np.abs(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


@backends.oracle()
def expect(op: str, arrays: Arrays, options: dict[str, Any]) -> list[Expected]:
    """What an op must give for host arrays of one dtype, by whatever algorithm."""
    rule, tf32 = _RULES[op], options.get("tf32", False)
    options, dtype = {name: value for name, value in options.items() if name not in ("algo", "tf32")}, _dtype(arrays)
    if not rule:
        return _same_bits(op, arrays, options)
    arrays = [wide(a) for a in arrays]
    if tf32:  # the products of rounded factors are exact in float32, and the rest is as without
        factors = 3 if op == "conv2d_backward" else 2  # elsewhere a third is a bias
        arrays = [*map(round_tf32, arrays[:factors]), *arrays[factors:]]
    return rule(op, arrays, options, dtype)


def _dtype(arrays: Arrays) -> np.dtype | None:
    """The dtype a case is about: the narrowest float among the arrays, None where there is none."""
    floats = [a.dtype for a in _flat(arrays) if a is not None and a.dtype.kind not in "iub"]
    return min(floats, key=lambda dtype: dtype.itemsize, default=None)


def _flat(arrays: Arrays) -> list[Any]:
    return [a for array in arrays for a in (array if isinstance(array, list) else [array])]


def _same_bits(op: str, arrays: Arrays, options: dict[str, Any]) -> list[Expected]:
    results = getattr(ops, op)(*arrays, **options)
    results = results if isinstance(results, tuple) else (results,)
    return [Expected(f"result {i}" if i else "result", wide(r), 0.0) for i, r in enumerate(results)]


# --- ops that add and multiply -----------------------------------------------------------------


def _linear_in_its_inputs(length: Callable[[Arrays, dict[str, Any]], int]) -> Callable[..., list[Expected]]:
    """An op whose every output is a sum of `length` products of inputs."""

    def rule(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
        plain = {name: value for name, value in options.items() if name != "activation"}
        call = getattr(ops, op)
        magnitude = call(*[magnitude_of(a) for a in arrays], **plain)
        value = call(*arrays, **options)
        bound = sum_bound(dtype, length(arrays, options), magnitude)
        if options.get("activation"):  # no activation is steeper than 1.13; its own arithmetic adds a few roundings
            bound = 1.13 * bound + accumulated(dtype, 8, magnitude)
        return [Expected("result", value, bound)]

    return rule


def _conv_length(arrays: Arrays, options: dict[str, Any]) -> int:
    return math.prod(arrays[1].shape[1:]) + 1


def _dgrad_length(arrays: Arrays, options: dict[str, Any]) -> int:
    w = arrays[1]
    return math.prod(w.shape[:3]) // options.get("groups", 1)


def _wgrad_length(arrays: Arrays, options: dict[str, Any]) -> int:
    return math.prod(arrays[0].shape[:3])


def _conv2d_backward(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    """What the two ops give that make one gradient each."""
    dy, x, w = arrays
    dgrad, wgrad = _linear_in_its_inputs(_dgrad_length), _linear_in_its_inputs(_wgrad_length)
    (dx,) = dgrad("conv2d_dgrad", [dy, w], options | {"input_shape": x.shape}, dtype)
    (dw,) = wgrad("conv2d_wgrad", [dy, x], options | {"kernel_size": w.shape[1:3]}, dtype)
    return [Expected("dx", dx.value, dx.bound), Expected("dw", dw.value, dw.bound)]


def _window_length(arrays: Arrays, options: dict[str, Any]) -> int:
    size = options["kernel_size"]
    return math.prod(size) if isinstance(size, tuple) else size * size


def _conv2d_relu(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    """y errs by no more than the worst of its window. A byte of the mask is certain unless rounding may turn one of its
    bits: where the largest number of a window lies within its error of zero, or of the second largest above zero."""
    window = {name: value for name, value in options.items() if name != "pool"}
    (before,) = _linear_in_its_inputs(_conv_length)("conv2d", arrays, window, dtype)
    y, mask = ops.conv2d_relu(*arrays, **options)
    pool: dict[str, Any] = dict(kernel_size=options["pool"])
    bound, _ = ops.max_pool2d(before.bound, **pool)
    largest, first = ops.max_pool2d(before.value, **pool)
    of_others = before.value.copy()
    of_others[ops.max_pool2d_backward(np.ones_like(y), first, input_shape=of_others.shape, **pool) > 0] = -np.inf
    second, _ = ops.max_pool2d(of_others, **pool)
    doubtful = (np.abs(largest) <= bound) | ((largest - second <= 2 * bound) & (largest > 0))
    n, p, q, k = y.shape
    groups = options.get("groups", 1)
    bits = np.repeat(doubtful.reshape(n, p, q, groups, k // groups), options["pool"] ** 2, axis=-1)
    doubtful_bytes = np.packbits(bits, -1, "little").reshape(mask.shape) > 0
    return [Expected("y", y, bound), Expected("mask", wide(mask), np.where(doubtful_bytes, 255.0, 0.0))]


# --- activations -------------------------------------------------------------------------------


def _activation(condition: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., list[Expected]]:
    """y = f(x) by a few roundings, each relative to `condition(x, y)`."""

    def rule(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
        (x,) = arrays
        y = getattr(ops, op)(x, **options)
        return [Expected("result", y, accumulated(dtype, 8, condition(x, y)) + rounded(dtype, y))]

    return rule


def _activation_backward(condition: Callable[[np.ndarray], np.ndarray]) -> Callable[..., list[Expected]]:
    def rule(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
        dy, saved = arrays
        dx = getattr(ops, op)(dy, saved, **options)
        return [Expected("result", dx, accumulated(dtype, 8, dy * condition(saved)) + rounded(dtype, dx))]

    return rule


def _softmax(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    (x,) = arrays
    y = ops.softmax(x)
    return [Expected("result", y, _softmax_error(x, y, dtype) + rounded(dtype, y))]


def _softmax_error(x: np.ndarray, y: np.ndarray, dtype: Any) -> np.ndarray:
    """exp turns the absolute error of its argument into a relative one; the row's sum adds its own."""
    depth = np.abs(x - x.max(1, keepdims=True)) + np.abs(x)
    return accumulated(dtype, x.shape[1] + 8, y) + accumulated(dtype, 2, y * depth)


# --- normalisation -----------------------------------------------------------------------------


def _batch_norm(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any, x_bound: Any = 0.0) -> list[Expected]:
    """x_bound: how far a kernel's x may lie from this one."""
    x, gamma, beta, running_mean, running_var = arrays
    before = running_mean.copy(), running_var.copy()
    y, mean, inv_std = ops.batch_norm(x, gamma, beta, running_mean, running_var, **options | {"activation": None})
    rows = math.prod(x.shape[:-1]) if options["training"] else 1
    acc = accumulation_dtype(dtype)
    mean_bound = accumulated(acc, rows, np.abs(x).reshape(-1, x.shape[-1]).mean(0) + np.abs(mean)) + rounded(acc, mean)
    if not options["training"]:
        mean_bound = 0 * mean_bound
    err = np.broadcast_to(x_bound, x.shape).reshape(-1, x.shape[-1])
    mean_bound = mean_bound + err.mean(0) * bool(options["training"])
    # The variance is a sum of squares around a mean that itself errs; 1 / sqrt halves a relative error.
    variance = 1 / inv_std**2
    variance_bound = accumulated(acc, rows + 4, variance) + mean_bound**2 + 4 * mean_bound * np.sqrt(variance)
    square = (err**2).mean(0) * bool(options["training"])  # by Cauchy and Schwarz
    variance_bound = variance_bound + 2 * np.sqrt(variance * square) + square
    inv_std_bound = inv_std * (variance_bound / variance + 8 * UNIT_ROUNDOFF[acc.name])
    normal = np.abs(x - mean)
    y_bound = np.abs(gamma) * (
        inv_std * (mean_bound + x_bound + accumulated(acc, 2, np.abs(x) + np.abs(mean))) + normal * inv_std_bound
    )
    y_bound = y_bound + accumulated(acc, 4, np.abs(gamma) * normal * inv_std + np.abs(beta)) + rounded(dtype, y)
    if options.get("activation"):  # as of a product: no activation is steeper than 1.13
        y_bound = 1.13 * y_bound + accumulated(dtype, 8, y)
        y = getattr(ops, options["activation"])(y)
        y_bound = y_bound + rounded(dtype, y)
    kept_bounds: tuple[Any, Any] = (0.0, 0.0)  # inference leaves the running statistics as they are
    if options["training"]:
        unbiased = rows / (rows - 1)
        kept_bounds = (
            mean_bound + accumulated(acc, 4, np.abs(before[0]) + np.abs(mean)),
            unbiased * variance_bound + accumulated(acc, 6, before[1] + unbiased * variance),
        )
    return [
        Expected("y", y, y_bound),
        Expected("mean", mean, mean_bound),
        Expected("inv_std", inv_std, inv_std_bound),
        Expected("running_mean", running_mean, kept_bounds[0]),
        Expected("running_var", running_var, kept_bounds[1]),
    ]


def _batch_norm_backward(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    dy, x, gamma, mean, inv_std = arrays
    options = options | ({"beta": wide(options["beta"])} if options.get("activation") else {})
    dx, dgamma, dbeta = ops.batch_norm_backward(*arrays, **options)
    rows, acc = math.prod(x.shape[:-1]), accumulation_dtype(dtype)
    dy, dy_bound = _behind_activation(dy, x, gamma, mean, inv_std, options, dtype)
    normal = (np.abs(x) + np.abs(mean)) * inv_std  # xhat before its terms cancel
    axes = tuple(range(x.ndim - 1))
    dbeta_bound = sum_bound(acc, rows, np.abs(dy).sum(axes)) + dy_bound.sum(axes)
    dgamma_bound = sum_bound(acc, rows + 4, (np.abs(dy) * normal).sum(axes)) + (dy_bound * normal).sum(axes)
    inside = np.abs(dy) + (np.abs(dbeta) + normal * np.abs(dgamma)) / rows if options["training"] else np.abs(dy)
    sums = (dbeta_bound + normal * dgamma_bound) / rows if options["training"] else 0.0
    dx_bound = np.abs(gamma) * inv_std * (accumulated(acc, 10, inside) + sums + dy_bound) + rounded(dtype, dx)
    return [
        Expected("dx", dx, dx_bound),
        Expected("dgamma", dgamma, dgamma_bound),
        Expected("dbeta", dbeta, dbeta_bound),
    ]


def _behind_activation(
    dy: Any, x: Any, gamma: Any, mean: Any, inv_std: Any, options: dict[str, Any], dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient to what the activation was given, and how far a kernel's may lie from it: no derivative of one
    changes faster than its argument, but those of the ReLUs, which jump where that may be of either sign."""
    op = options.get("activation")
    if not op:
        return dy, np.zeros_like(dy)
    acc = accumulation_dtype(dtype)
    terms = np.abs(gamma) * (np.abs(x) + np.abs(mean)) * inv_std + np.abs(options["beta"])
    given = gamma * (x - mean) * inv_std + options["beta"]
    given_bound = accumulated(acc, 6, terms) + rounded(dtype, given)
    saved = given if op in ("gelu", "silu") else getattr(ops, op)(given)
    behind = getattr(ops, f"{op}_backward")(dy, saved)
    changes = np.abs(given) <= given_bound if op in ("relu", "leaky_relu") else 1.13 * given_bound
    own = accumulated(dtype, 8, np.abs(dy) * (1 + np.minimum(np.abs(given), 3))) + rounded(dtype, behind)
    if op in ("sigmoid", "tanh"):  # their derivative is of the rounded output
        own = own + np.abs(dy) * 2 * rounded(dtype, np.ones_like(dy))
    return behind, np.abs(dy) * changes + own


def _conv2d_batch_norm(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    own = {name: options[name] for name in ("activation", "momentum", "eps") if name in options}
    window = {name: value for name, value in options.items() if name not in own}
    (conv,) = _linear_in_its_inputs(_conv_length)("conv2d", arrays[:3], window, dtype)
    y, *statistics = _batch_norm(op, [conv.value, *arrays[3:]], own | {"training": True}, dtype, conv.bound)
    return [y, Expected("conv", conv.value, conv.bound), *statistics]


# --- losses ------------------------------------------------------------------------------------


def _softmax_cross_entropy(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    logits, labels = arrays
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, **options)
    n, classes = logits.shape
    acc, y = accumulation_dtype(dtype), ops.softmax(logits)
    scale = float(np.asarray(options.get("grad_scale", 1.0)).item())
    magnitude = 2 * np.abs(logits).max(1).mean() + abs(loss) + math.log(classes) + 1
    target = np.abs(y - n * dlogits / scale)
    error = _softmax_error(logits, y, dtype) + accumulated(dtype, 7, y + target)
    dlogits_bound = error / n * scale + rounded(dtype, dlogits)
    return [
        Expected("loss", loss, accumulated(acc, n + 2 * classes + 8, magnitude)),
        Expected("dlogits", dlogits, dlogits_bound),
    ]


def _svm_hinge(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    scores, labels = arrays
    loss, dscores = ops.svm_hinge(scores, labels, **options)
    n, classes = scores.shape
    magnitude = classes * (2 * np.abs(scores).max(1).mean() + options.get("delta", 1.0))
    return [
        Expected("loss", loss, accumulated(accumulation_dtype(dtype), n + classes + 4, magnitude)),
        Expected("dscores", dscores, accumulated(dtype, 3, dscores) + rounded(dtype, dscores)),
    ]


# --- optimizer steps ---------------------------------------------------------------------------


def _optimizer(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    """Each entry of params, state and masters after the step. The arrays are the op's: params, grads, state, masters,
    scaling."""
    *_, masters, scaling = arrays
    lists = [group for group in arrays if isinstance(group, list)]
    before = [[a.copy() for a in group] for group in lists]
    getattr(ops, op)(*arrays, **options)
    unscale, skipped = (1.0, 0.0) if scaling is None else scaling[[1, 3]]
    kept = accumulation_dtype(np.dtype(dtype)) if masters else dtype  # the dtype of state and masters
    states = lists[2 : len(lists) - bool(masters)]
    decays = options.get("weight_decay", 0.0)
    decay = max(decays) if isinstance(decays, (tuple, list)) else decays
    results = []
    for index, param in enumerate(lists[0]):
        old = before[-1 if masters else 0][index]
        grad = np.abs(before[1][index]) * unscale + decay * np.abs(old)
        moved = np.abs(param - old) + _step_size(op, [group[index] for group in states], grad, options, skipped)
        error = accumulated(dtype, 16, np.abs(old) + moved) + (rounded(kept, param) if masters else 0)
        results.append(Expected(f"param {index}", param, error + rounded(dtype, param)))
        for slot, group in enumerate(states):
            was = np.abs(before[2 + slot][index])
            size = was + (grad if op in ("sgd_step",) or (op == "adam_step" and slot == 0) else grad**2)
            bound = accumulated(dtype, 8, size) + rounded(kept, group[index])
            results.append(Expected(f"state {slot} of param {index}", group[index], bound))
        if masters:
            results.append(Expected(f"master {index}", masters[index], error))
    return results


def _loss_scale(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    scaling, grads = arrays
    ops.update_loss_scale(scaling, grads, **options)
    return [Expected("scaling", scaling, 0.0)]


def _step_size(op: str, states: Arrays, grad: Any, options: dict[str, Any], skipped: float) -> np.ndarray:
    """How large the update would be if nothing in it cancelled."""
    lr = float(np.asarray(options["lr"]).item())
    if op == "sgd_step":
        return lr * 2 * (grad + (np.abs(states[0]) if states else 0))
    if op == "adam_step":
        m, v = states
        step = float(np.asarray(options["step"]).item()) - skipped
        m_share, v_share = 1 - options.get("beta1", 0.9) ** step, 1 - options.get("beta2", 0.999) ** step
        # 1 - beta**step loses digits in float32 where step is small; kernels compute it in double.
        return lr * (np.abs(m) + grad) / m_share / (np.sqrt(v / v_share) + options.get("eps", 1e-8))
    return lr * grad / (np.sqrt(states[0]) + options.get("eps", 1e-10 if op == "adagrad_step" else 1e-8))


def _muon(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    """As `_optimizer`; an orthogonal direction errs by `_newton_schulz`."""
    *_, masters, scaling = arrays
    params, grads, velocities = ([a.copy() for a in group] for group in (masters or arrays[0], *arrays[1:3]))
    ops.muon_step(*arrays, **options)
    unscale = 1.0 if scaling is None else scaling[1]
    kept = accumulation_dtype(np.dtype(dtype)) if masters else dtype  # the dtype of state and masters
    lr, momentum, steps = options["lr"], options.get("momentum", 0.0), options.get("steps", 5)
    results = []
    for index, (param, grad, velocity) in enumerate(zip(params, grads, velocities)):
        after, v = arrays[0][index], arrays[2][index]
        size, error = momentum * np.abs(velocity) + np.abs(grad) * unscale, np.zeros(param.shape)
        if param.size:
            direction = (grad * unscale + momentum * v if options.get("nesterov") else v).reshape(len(param), -1)
            wide, length = direction if len(direction) <= len(direction.T) else direction.T, np.linalg.norm(direction)
            began = np.linalg.norm(accumulated(dtype, 4, 2 * size)) / length + accumulated(dtype, param.size, 1.0)
            turned = lr * orthogonal(direction, steps).reshape(param.shape)
            error = lr * _newton_schulz(wide / length, steps, began, dtype) + accumulated(dtype, 4, turned)
            error = error + accumulated(dtype, param.size + 4, after + turned) + rounded(kept, after)
        results.append(Expected(f"param {index}", after, error + rounded(dtype, after)))
        results.append(Expected(f"velocity {index}", v, accumulated(dtype, 4, size) + rounded(kept, v)))
        if masters:
            results.append(Expected(f"master {index}", masters[index], error))
    return results


def _newton_schulz(x: np.ndarray, steps: int, error: float, dtype: Any) -> float:
    """The Frobenius norm of what Newton-Schulz steps from x (lines <= columns) err by, from that of x's own error.

    p(s) = a s + b s^3 + c s^5 on singular values is a function of the Hermitian [[0, x], [x^T, 0]]: a step multiplies
    an error by at most the largest |p'| between 0 and x's norm (Daleckii and Krein: divided differences bound it), and
    adds what rounding its own products and sums does.
    """
    a, b, c = NEWTON_SCHULZ
    lines, columns = x.shape
    for _ in range(steps):
        norm = np.linalg.norm(x, 2) + error
        slope = np.abs(a + 3 * b * (s := np.linspace(0, norm, 1000)) ** 2 + 5 * c * s**4).max()
        gram, size = x @ x.T, np.abs(x)
        gram_error = np.linalg.norm(accumulated(dtype, columns, size @ size.T))
        square_error = np.linalg.norm(accumulated(dtype, lines, np.abs(gram) @ np.abs(gram)))
        m = a * np.eye(lines) + b * gram + c * gram @ gram
        terms = a * np.eye(lines) + abs(b) * np.abs(gram) + c * np.abs(gram @ gram)
        m_error = (abs(b) + 2 * c * norm**2) * gram_error + c * square_error
        m_error += np.linalg.norm(accumulated(dtype, 3, terms))
        own = m_error * norm + np.linalg.norm(accumulated(dtype, lines, np.abs(m) @ size))
        x, error = m @ x, slope * error + own
    return error


def _metrics(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
    totals, loss, scores, labels = arrays
    ops.add_metrics(totals, loss, scores, labels)
    return [Expected("totals", totals, accumulated(np.float64, 2, totals))]


def _in_place(names: str) -> Callable[..., list[Expected]]:
    """An op that changes its arrays, and perhaps returns one more, to the oracle's very bits."""

    def expect_changed(op: str, arrays: Arrays, options: dict[str, Any], dtype: Any) -> list[Expected]:
        returned = getattr(ops, op)(*arrays, **options)
        changed = [Expected(name, array, 0.0) for name, array in zip(names.split(), arrays)]
        return changed + ([] if returned is None else [Expected("result", returned, 0.0)])

    return expect_changed


_relative_sum = _linear_in_its_inputs(lambda arrays, options: 2)
_sum_of_rows = _linear_in_its_inputs(lambda arrays, options: math.prod(arrays[0].shape[:-1]))
_sum_of_window = _linear_in_its_inputs(_window_length)
_relative = _activation(lambda x, y: np.abs(y))

_RULES: dict[str, Callable[..., list[Expected]] | None] = {
    "conv2d": _linear_in_its_inputs(_conv_length),
    "conv2d_relu": _conv2d_relu,
    "conv2d_dgrad": _linear_in_its_inputs(_dgrad_length),
    "conv2d_wgrad": _linear_in_its_inputs(_wgrad_length),
    "conv2d_backward": _conv2d_backward,
    "bias_grad": _sum_of_rows,
    "max_pool2d": None,
    "max_pool2d_backward": _sum_of_window,
    "avg_pool2d": _sum_of_window,
    "avg_pool2d_backward": _sum_of_window,
    "global_avg_pool2d": _linear_in_its_inputs(lambda arrays, options: math.prod(arrays[0].shape[1:3])),
    "global_avg_pool2d_backward": _linear_in_its_inputs(lambda arrays, options: 1),
    "relu": None,
    "relu_backward": None,
    "leaky_relu": _relative,
    "leaky_relu_backward": _activation_backward(lambda y: np.ones_like(y)),
    "sigmoid": _activation(lambda x, y: np.abs(y) * (1 + np.minimum(np.abs(x), 1))),
    "sigmoid_backward": _activation_backward(lambda y: np.ones_like(y)),
    "tanh": _relative,
    "tanh_backward": _activation_backward(lambda y: np.ones_like(y)),
    "gelu": _activation(lambda x, y: np.abs(x)),
    # The tanh form multiplies 1 - tanh**2, which errs relative to 1, by x and the slope of the cubic.
    "gelu_backward": _activation_backward(lambda x: 1 + np.abs(x) * (1 + x**2 / 7)),
    "silu": _activation(lambda x, y: np.abs(y) * (1 + np.minimum(np.abs(x), 1))),
    "silu_backward": _activation_backward(lambda x: 1 + np.minimum(np.abs(x), 3)),
    "softmax": _softmax,
    "linear": _linear_in_its_inputs(lambda arrays, options: arrays[0].shape[1] + 1),
    "linear_dgrad": _linear_in_its_inputs(lambda arrays, options: arrays[0].shape[1]),
    "linear_wgrad": _linear_in_its_inputs(lambda arrays, options: arrays[0].shape[0]),
    "batch_norm": _batch_norm,
    "conv2d_batch_norm": _conv2d_batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "dropout": None,
    "dropout_backward": None,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "svm_hinge": _svm_hinge,
    "sgd_step": _optimizer,
    "adagrad_step": _optimizer,
    "rmsprop_step": _optimizer,
    "adam_step": _optimizer,
    "update_loss_scale": _loss_scale,
    "muon_step": _muon,
    "add": _relative_sum,
    "scale": _relative,
    "add_metrics": _metrics,
    "load_batch": None,
    "advance_clock": _in_place("clock lr"),
    "advance_counter": _in_place("counter"),
    "random_uniform": None,
    "random_normal": None,
    "random_permutation": None,
}
