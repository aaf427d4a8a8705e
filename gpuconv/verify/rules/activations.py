"""Activations, softmax and losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuconv import ops
from gpuconv.dtypes import accumulation_dtype
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
    depth = np.abs(x - x.max(1, keepdims=True)) + np.abs(x)
    return accumulation(dtype, x.shape[1] + 8, y) + accumulation(dtype, 2, y * depth)


def softmax_cross_entropy(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    logits, labels, weight = (*arrays, None)[:3]
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, weight, **options)
    n, classes = logits.shape
    most, summed = _largest_row_weight(labels, weight, options.get("ignore_index"))
    acc, y = accumulation_dtype(dtype), ops.softmax(logits)
    scale = float(np.asarray(options.get("grad_scale", 1.0)).item())
    magnitude = most * (2 * np.abs(logits).max(1).mean() + math.log(classes) + 1) + abs(loss)
    error = most * softmax_error(logits, y, dtype)
    error += accumulation(dtype, 7 + summed, 2 * most * y + np.abs(n * dlogits / scale))
    dlogits_bound = error / n * scale + rounding(dtype, dlogits)
    return [
        Expected("loss", loss, accumulation(acc, n + 2 * classes + 8 + summed, magnitude)),
        Expected("dlogits", dlogits, dlogits_bound),
    ]


def _largest_row_weight(labels: np.ndarray, weight: np.ndarray | None, ignored: int | None) -> tuple[float, int]:
    """(most, summed). most: a bound on how much a row counts in the loss, relative to an average row: the weighted sum
    of its targets, times the number of rows, divided by the divisor of the loss. summed: how many values are added up
    in such sums."""
    if labels.ndim == 2:
        return float(max(labels.sum(1).max(), 1) * (1 if weight is None else weight.max())), labels.shape[1]
    if weight is None and ignored is None:
        return 1.0, 0
    known = labels[labels != ignored]
    divisor = len(known) if weight is None else weight[known].sum()
    most = 1 if weight is None else weight.max()
    return float(most * len(labels) / divisor) if divisor else 0.0, len(labels) + (0 if weight is None else len(weight))


def svm_hinge(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    scores, labels = arrays
    loss, dscores = ops.svm_hinge(scores, labels, **options)
    n, classes = scores.shape
    magnitude = classes * (2 * np.abs(scores).max(1).mean() + options.get("delta", 1.0))
    return [
        Expected("loss", loss, accumulation(accumulation_dtype(dtype), n + classes + 4, magnitude)),
        Expected("dscores", dscores, accumulation(dtype, 3, dscores) + rounding(dtype, dscores)),
    ]


def elementwise_loss(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    """The terms of the loss have one sign, so the loss is their magnitude, except in binary cross-entropy."""
    scores, targets, weight = (*arrays, None)[:3]
    loss, dscores = getattr(ops, op)(*arrays, **options)
    magnitude, slopes = loss, np.abs(dscores)
    if op == "binary_cross_entropy":
        weighs = 1 + np.abs(targets) * (2 if weight is None else 1 + weight)
        magnitude = (weighs * (1 + np.abs(scores))).mean()
        slopes = weighs / scores.size * float(np.asarray(options.get("grad_scale", 1.0)).item())
    return [
        Expected("loss", loss, accumulation(accumulation_dtype(dtype), scores.size + 10, magnitude)),
        Expected("dscores", dscores, accumulation(dtype, 10, slopes) + rounding(dtype, dscores)),
    ]
