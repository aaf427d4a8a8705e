"""Ops that add and multiply: convolutions, bias gradients, linear layers, pools."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuconv import ops
from gpuconv.activations import ACTIVATIONS
from gpuconv.dtypes import accumulation_dtype
from gpuconv.types import Options
from gpuconv.verify.bounds import Bound, accumulation, rounding, sum_bound
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.base import Arrays, Rule, as_float64, exact_results


def magnitude_of(x: object) -> object:
    return np.asarray(np.abs(x)) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def linear_in_its_inputs(length: Callable[[Arrays, Options], int]) -> Rule:
    """The rule of an op that computes each output as a sum of `length(arrays, options)` products of inputs."""

    def rule(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        plain = {name: value for name, value in options.items() if name != "activation"}
        call = getattr(ops, op)
        magnitude = call(*[magnitude_of(a) for a in arrays], **plain)
        value = call(*arrays, **options)
        bound = sum_bound(dtype, length(arrays, options), magnitude)
        return [Expected("result", value, behind_activation(options.get("activation"), bound, magnitude, value, dtype))]

    return rule


def behind_activation(
    activation: str | None, bound: Bound, magnitude: np.ndarray, value: np.ndarray, dtype: np.dtype
) -> Bound:
    """The bound of an activation's output, given that of its input. The activation adds a few roundings of its own.

    bound: the error bound of the input. magnitude: at least the absolute value of the input. value: the output.
    """
    if not activation:
        return bound
    # The output may be larger than the magnitude of the input: sigmoid(0) is 1/2.
    own = accumulation(dtype, 8, magnitude + np.abs(value)) + rounding(dtype, value)
    return ACTIVATIONS[activation].steepest * bound + own


def conv_length(arrays: Arrays, options: Options) -> int:
    return math.prod(arrays[1].shape[1:]) + 1


def dgrad_length(arrays: Arrays, options: Options) -> int:
    w = arrays[1]
    return math.prod(w.shape[:3]) // options.get("groups", 1)


def wgrad_length(arrays: Arrays, options: Options) -> int:
    return math.prod(arrays[0].shape[:3])


def conv2d_backward(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The results of conv2d_dgrad and conv2d_wgrad, which compute one gradient each."""
    dy, x, w = arrays
    dgrad, wgrad = linear_in_its_inputs(dgrad_length), linear_in_its_inputs(wgrad_length)
    (dx,) = dgrad("conv2d_dgrad", [dy, w], options | {"input_shape": x.shape}, dtype)
    (dw,) = wgrad("conv2d_wgrad", [dy, x], options | {"kernel_size": w.shape[1:3]}, dtype)
    return [Expected("dx", dx.value, dx.bound), Expected("dw", dw.value, dw.bound)]


def bias_grad(rule_of: Callable[[str], Rule | None]) -> Rule:
    """The rule of bias_grad, a sum of rows. With an activation, the rows of the activation's gradient are summed, and
    so are their errors. rule_of: the rule of an activation's backward op, by name."""
    sum_of_rows = linear_in_its_inputs(lambda arrays, options: math.prod(arrays[0].shape[:-1]))

    def rule(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        name = options.get("activation")
        if name is None:
            return sum_of_rows(op, arrays[:1], options, dtype)
        backward, defaults = f"{name}_backward", dict(ACTIVATIONS[name].options)
        if backward_rule := rule_of(backward):
            (dz,) = backward_rule(backward, arrays, defaults, accumulation_dtype(dtype))
        else:
            (dz,) = exact_results(backward, arrays, defaults)
        rows = tuple(range(dz.value.ndim - 1))
        error = np.broadcast_to(dz.bound, dz.value.shape).sum(rows)
        summed = sum_bound(dtype, math.prod(dz.value.shape[:-1]), np.abs(dz.value).sum(rows))
        return [Expected("result", ops.bias_grad(*arrays, **options), error + summed)]

    return rule


def window_length(arrays: Arrays, options: Options) -> int:
    size = options["kernel_size"]
    return math.prod(size) if isinstance(size, (tuple, list)) else size * size


def conv2d_relu(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The error of a value of y is at most the largest error of the convolution in its window. A byte of the
    mask must be equal unless rounding may flip one of its bits: where a window's largest and second largest values are
    too close to tell apart or, with ReLU, where the largest is too close to zero. Other activations store their input
    instead of a mask."""
    window = {name: value for name, value in options.items() if name not in ("pool", "activation")}
    (before,) = linear_in_its_inputs(conv_length)("conv2d", arrays, window, dtype)
    y, mask = ops.conv2d_relu(*arrays, **options)
    activation = options.get("activation", "relu")
    if activation not in ("relu", None):
        bound = behind_activation(activation, before.bound, np.abs(before.value), y, dtype)
        return [Expected("y", y, bound), Expected("saved", before.value, before.bound)]
    side = options.get("pool", 1)
    pool: Options = dict(kernel_size=side)
    bound, _ = ops.max_pool2d(before.bound, **pool)
    largest, first = ops.max_pool2d(before.value, **pool)
    of_others = before.value.copy()
    of_others[ops.max_pool2d_backward(np.ones_like(y), first, input_shape=of_others.shape, **pool) > 0] = -np.inf
    second, _ = ops.max_pool2d(of_others, **pool)  # the largest of the other values in each window
    doubtful = largest - second <= 2 * bound
    if activation is not None:
        doubtful = (np.abs(largest) <= bound) | (doubtful & (largest > 0))
    n, p, q, k = y.shape
    groups = options.get("groups", 1)
    bits = np.repeat(doubtful.reshape(n, p, q, groups, k // groups), side**2, axis=-1)
    doubtful_bytes = np.packbits(bits, -1, "little").reshape(mask.shape) > 0
    return [Expected("y", y, bound), Expected("mask", as_float64(mask), np.where(doubtful_bytes, 255.0, 0.0))]
