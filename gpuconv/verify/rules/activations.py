"""Activations and softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuconv import ops
from gpuconv.types import Options
from gpuconv.verify.bounds import Bound, accumulation, rounding
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.base import Arrays, Rule


def activation(magnitude: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    """y = f(x), computed with a few roundings whose errors are relative to `magnitude(x, y)`."""

    def rule(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        (x,) = arrays
        y = getattr(ops, op)(x, **options)
        return [Expected("result", y, accumulation(dtype, 8, magnitude(x, y)) + rounding(dtype, y))]

    return rule


def activation_backward(magnitude: Callable[[np.ndarray], np.ndarray]) -> Rule:
    """dx = dy * f', computed with a few roundings whose errors are relative to dy * magnitude(saved)."""

    def rule(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        dy, saved = arrays
        dx = getattr(ops, op)(dy, saved, **options)
        return [Expected("result", dx, accumulation(dtype, 8, dy * magnitude(saved)) + rounding(dtype, dx))]

    return rule


def softmax(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    (x,) = arrays
    y = ops.softmax(x)
    return [Expected("result", y, softmax_error(x, y, dtype) + rounding(dtype, y))]


def softmax_error(x: np.ndarray, y: np.ndarray, dtype: np.dtype) -> Bound:
    """The error of y = softmax(x) before it is rounded: exp turns the absolute error of its argument into a relative
    one, and the sum of the row adds its own."""
    depth = np.abs(x - x.max(1, keepdims=True, initial=-np.inf)) + np.abs(x)
    return accumulation(dtype, x.shape[1] + 8, y) + accumulation(dtype, 2, y * depth)
