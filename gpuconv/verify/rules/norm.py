"""Batch normalization (alone, with an activation, next to a convolution) and group normalization."""

from __future__ import annotations

import math

import numpy as np

from gpuconv import ops
from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.reference.conv import gradient_before_mask
from gpuconv.dtypes import accumulation_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Options
from gpuconv.verify.bounds import UNIT_ROUNDOFF, Bound, accumulation, rounding, sum_bound
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.base import Arrays, as_float64
from gpuconv.verify.rules.products import conv2d_relu, conv_length, dgrad_length, linear_in_its_inputs

# The options of the convolution that batch_norm_backward includes if it receives w.
_CONVOLUTION = ("stride", "padding", "dilation", "groups", "fit", "algo", "tf32")


def batch_norm(op: str, arrays: Arrays, options: Options, dtype: np.dtype, x_bound: Bound = 0.0) -> list[Expected]:
    """x_bound: the error bound of x, if a kernel computed x."""
    x, gamma, beta, running_mean, running_var = arrays
    before = running_mean.copy(), running_var.copy()
    plain = options | {"activation": None, "addend": None}
    y, mean, inv_std = ops.batch_norm(x, gamma, beta, running_mean, running_var, **plain)
    training, acc = options["training"], accumulation_dtype(dtype)
    rows = math.prod(x.shape[:-1]) if training else 1
    mean_bound = mean_square_error = np.zeros(x.shape[-1])  # the running statistics have no error
    if training:
        x_error = np.broadcast_to(x_bound, x.shape).reshape(-1, x.shape[-1])
        mean_bound = _mean_bound(acc, rows, np.abs(x).reshape(-1, x.shape[-1]).mean(0), mean) + x_error.mean(0)
        mean_square_error = (x_error**2).mean(0)
    variance = 1 / inv_std**2
    variance_bound = _variance_bound(acc, rows, variance, mean_bound)
    # By the Cauchy-Schwarz inequality.
    variance_bound = variance_bound + 2 * np.sqrt(variance * mean_square_error) + mean_square_error
    inv_std_bound = _inv_std_bound(acc, inv_std, variance, variance_bound)
    y_bound = _affine_bound(acc, x, gamma, beta, mean, inv_std, mean_bound + x_bound, inv_std_bound)
    y_bound = y_bound + rounding(dtype, y)
    if options.get("addend") is not None:
        y = y + as_float64(options["addend"])
        y_bound = y_bound + accumulation(acc, 1, y) + rounding(dtype, y)
    if options.get("activation"):
        y_bound = ACTIVATIONS[options["activation"]].steepest * y_bound + accumulation(dtype, 8, y)
        y = ACTIVATIONS[options["activation"]].apply(ops, y)
        y_bound = y_bound + rounding(dtype, y)
    running_bounds: tuple[Bound, Bound] = (0.0, 0.0)  # inference leaves the running statistics unchanged
    if training:
        unbiased = rows / (rows - 1)
        running_bounds = (
            mean_bound + accumulation(acc, 4, np.abs(before[0]) + np.abs(mean)),
            unbiased * variance_bound + accumulation(acc, 6, before[1] + unbiased * variance),
        )
    return [
        Expected("y", y, y_bound),
        Expected("mean", mean, mean_bound),
        Expected("inv_std", inv_std, inv_std_bound),
        Expected("running_mean", running_mean, running_bounds[0]),
        Expected("running_var", running_var, running_bounds[1]),
    ]


def _mean_bound(acc: np.dtype, rows: int, size: np.ndarray, mean: np.ndarray) -> Bound:
    """The error of the mean of `rows` values, summed in acc. size: the mean of their absolute values."""
    return accumulation(acc, rows, size + np.abs(mean)) + rounding(acc, mean)


def _variance_bound(acc: np.dtype, rows: int, variance: np.ndarray, mean_bound: Bound) -> Bound:
    """The error of a variance, whose squares are taken around a mean that has an error itself."""
    return accumulation(acc, rows + 4, variance) + mean_bound**2 + 4 * mean_bound * np.sqrt(variance)


def _inv_std_bound(acc: np.dtype, inv_std: np.ndarray, variance: np.ndarray, variance_bound: Bound) -> Bound:
    # 1 / sqrt would halve the variance's relative error, so this bound has a margin.
    return inv_std * (variance_bound / variance + 8 * UNIT_ROUNDOFF[acc.name])


def _affine_bound(
    acc: np.dtype,
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    difference_bound: Bound,
    inv_std_bound: Bound,
) -> Bound:
    """The error of gamma * (x - mean) * inv_std + beta before it is rounded to the output's dtype. difference_bound:
    the errors of x and mean together."""
    deviation = np.abs(x - mean)
    normalized_bound = inv_std * (difference_bound + accumulation(acc, 2, np.abs(x) + np.abs(mean)))
    normalized_bound = normalized_bound + deviation * inv_std_bound
    return np.abs(gamma) * normalized_bound + accumulation(acc, 4, np.abs(gamma) * deviation * inv_std + np.abs(beta))


def moment_bounds(acc: np.dtype, rows: int, mean: np.ndarray, variance: np.ndarray) -> tuple[Bound, Bound]:
    """The errors of mean and variance of `rows` values, summed in acc."""
    # The root mean square is at least the mean of the absolute values.
    mean_bound = _mean_bound(acc, rows, np.sqrt(variance + mean**2), mean)
    return mean_bound, _variance_bound(acc, rows, variance, mean_bound)


def batch_norm_backward(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The options w, saved and mask add a step each. w: conv2d_dgrad first computes dy. saved: dy first passes the
    activation, which gives the addend's gradient, the last result. mask: dx is spread over the map before the pool."""
    if options.get("mask") is not None:
        mask, shape, groups = options["mask"], options["input_shape"], options.get("groups", 1)
        plain = {name: value for name, value in options.items() if name not in ("mask", "input_shape", "groups")}
        pooled, *gradients = batch_norm_backward(op, arrays, plain, dtype)
        before = Conv2dProblem.of(shape, (shape[3], 1, 1, shape[3] // groups), groups=groups)
        both = (np.asarray(each) for each in (pooled.value, pooled.bound))
        value, bound = (gradient_before_mask(each, mask, before, 2) for each in both)
        return [Expected("dx", value, bound), *gradients]
    dy_bound_before: Bound = 0.0
    if options.get("w") is not None:
        convolution = {name: options[name] for name in _CONVOLUTION if name in options}
        own = {name: value for name, value in options.items() if name not in ("w", *_CONVOLUTION)}
        gradient = convolution | {"input_shape": arrays[1].shape}
        (output_gradient,) = linear_in_its_inputs(dgrad_length)(
            "conv2d_dgrad", [arrays[0], as_float64(options["w"])], gradient, dtype
        )
        arrays, options, dy_bound_before = [output_gradient.value, *arrays[1:]], own, output_gradient.bound
    dy, x, gamma, mean, inv_std = arrays
    daddend = []
    if options.get("saved") is not None:
        addend_gradient = _gradient_from_saved(arrays[0], as_float64(options["saved"]), options["activation"], dtype)
        own = {name: value for name, value in options.items() if name not in ("saved", "activation")}
        arrays, options, daddend = [addend_gradient.value, *arrays[1:]], own, [addend_gradient]
        dy_bound_before = addend_gradient.bound
    options = options | ({"beta": as_float64(options["beta"])} if options.get("beta") is not None else {})
    dx, dgamma, dbeta = map(np.asarray, ops.batch_norm_backward(*arrays, **options))
    rows, acc = math.prod(x.shape[:-1]), accumulation_dtype(dtype)
    dy, dy_bound = _input_gradient(dy, x, gamma, mean, inv_std, options, dtype)
    slope = ACTIVATIONS[options["activation"]].steepest if options.get("activation") else 1.0
    dy_bound = dy_bound + slope * dy_bound_before
    xhat_terms = (np.abs(x) + np.abs(mean)) * inv_std  # before they cancel
    axes = tuple(range(x.ndim - 1))
    dbeta_bound = sum_bound(acc, rows, np.abs(dy).sum(axes)) + dy_bound.sum(axes)
    dgamma_bound = sum_bound(acc, rows + 4, (np.abs(dy) * xhat_terms).sum(axes)) + (dy_bound * xhat_terms).sum(axes)
    inside, sums = np.abs(dy), 0.0
    if options.get("training", True):
        inside = inside + (np.abs(dbeta) + xhat_terms * np.abs(dgamma)) / rows
        sums = (dbeta_bound + xhat_terms * dgamma_bound) / rows
    dx_bound = np.abs(gamma) * inv_std * (accumulation(acc, 10, inside) + sums + dy_bound) + rounding(dtype, dx)
    return [
        Expected("dx", dx, dx_bound),
        Expected("dgamma", dgamma, dgamma_bound),
        Expected("dbeta", dbeta, dbeta_bound),
        *daddend,
    ]


def _gradient_from_saved(dy: np.ndarray, saved: np.ndarray, activation: str, dtype: np.dtype) -> Expected:
    """The gradient of the activation's input. saved: the array that the activation's backward reads."""
    dx = ACTIVATIONS[activation].gradient(ops, dy, saved)
    return Expected("daddend", dx, _activation_gradient_bound(dy, saved, dx, dtype))


def _activation_gradient_bound(dy: np.ndarray, z: np.ndarray, dx: np.ndarray, dtype: np.dtype) -> Bound:
    """The error of computing an activation's gradient dx from dy and z, the activation's input or output."""
    return accumulation(dtype, 8, np.abs(dy) * (1 + np.minimum(np.abs(z), 3))) + rounding(dtype, dx)


def _input_gradient(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    options: Options,
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the activation's input, and its bound. If the input has an error e, the activation's derivative
    changes by at most e. (ELU reaches this limit near 0; the factor 1.13 is a margin.) Where the derivative jumps,
    rounding may move the input to the other side, which changes the derivative by up to 1."""
    if not options.get("activation"):
        return dy, np.zeros_like(dy)
    activation = ACTIVATIONS[options["activation"]]
    acc = accumulation_dtype(dtype)
    terms = np.abs(gamma) * (np.abs(x) + np.abs(mean)) * inv_std + np.abs(options["beta"])
    z = gamma * (x - mean) * inv_std + options["beta"]
    z_bound = accumulation(acc, 6, terms) + rounding(dtype, z)
    dx = activation.apply_backward(ops, dy, z)
    jumps = [np.abs(z - at) <= z_bound for at in activation.jumps]
    changes = np.maximum(1.13 * z_bound, np.any(jumps, axis=0))
    own = _activation_gradient_bound(dy, z, dx, dtype)
    if not activation.saves_input and not activation.jumps:  # its derivative varies with the rounded output
        own = own + np.abs(dy) * 2 * rounding(dtype, np.ones_like(dy))
    return dx, np.abs(dy) * changes + own


def conv2d_batch_norm(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    own = {name: options[name] for name in ("activation", "addend", "momentum", "eps") if name in options}
    window = {name: value for name, value in options.items() if name not in own}
    if window.pop("pool", 1) == 1:
        conv, *mask = linear_in_its_inputs(conv_length)("conv2d", arrays[:3], window, dtype)
    else:
        conv, *mask = conv2d_relu("conv2d_relu", arrays[:3], window | {"activation": None, "pool": 2}, dtype)
    y, mean, inv_std, *running = batch_norm(op, [conv.value, *arrays[3:]], own | {"training": True}, dtype, conv.bound)
    return [y, Expected("conv", conv.value, conv.bound), mean, inv_std, *mask, *running]


def group_norm(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """As `batch_norm`, with the values of a group instead of those of a channel."""
    x, gamma, beta = arrays
    y, mean, inv_std = ops.group_norm(*arrays, **options)
    z, acc = _grouped(x, mean), accumulation_dtype(dtype)
    count = z.shape[1] * z.shape[3]
    mean_bound = _mean_bound(acc, count, np.abs(z).mean((1, 3)), mean)
    variance = 1 / inv_std**2
    variance_bound = _variance_bound(acc, count, variance, mean_bound)
    inv_std_bound = _inv_std_bound(acc, inv_std, variance, variance_bound)
    center, root, center_bound, root_bound = (
        _spread(np.asarray(each), x) for each in (mean, inv_std, mean_bound, inv_std_bound)
    )
    y_bound = _affine_bound(acc, x, gamma, beta, center, root, center_bound, root_bound)
    return [
        Expected("y", y, y_bound + rounding(dtype, y)),
        Expected("mean", mean, mean_bound),
        Expected("inv_std", inv_std, inv_std_bound),
    ]


def group_norm_backward(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    dy, x, gamma, mean, inv_std = arrays
    dx, dgamma, dbeta = map(np.asarray, ops.group_norm_backward(*arrays, **options))
    rows, acc, axes = math.prod(x.shape[:-1]), accumulation_dtype(dtype), tuple(range(x.ndim - 1))
    xhat_terms = (np.abs(x) + np.abs(_spread(mean, x))) * _spread(inv_std, x)  # before they cancel
    g = np.abs(dy * gamma)
    count = math.prod(_grouped(x, mean).shape[1::2])
    inside = g + _spread(_grouped(g, mean).mean((1, 3)), x)
    inside = inside + xhat_terms * _spread(_grouped(g * xhat_terms, mean).mean((1, 3)), x)
    return [
        Expected("dx", dx, _spread(inv_std, x) * accumulation(acc, count + 12, inside) + rounding(dtype, dx)),
        Expected("dgamma", dgamma, sum_bound(acc, rows + 4, (np.abs(dy) * xhat_terms).sum(axes))),
        Expected("dbeta", dbeta, sum_bound(acc, rows, np.abs(dy).sum(axes))),
    ]


def _grouped(x: np.ndarray, statistic: np.ndarray) -> np.ndarray:
    """x as (N, pixels, groups, channels of a group). statistic: (N, groups)."""
    groups = statistic.shape[1]
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def _spread(statistic: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A statistic (N, groups), repeated to the shape of x."""
    return np.broadcast_to(statistic[:, None, :, None], _grouped(x, statistic).shape).reshape(x.shape)
