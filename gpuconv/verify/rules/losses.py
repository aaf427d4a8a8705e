"""Losses, and the metrics that training sums up on the device."""

from __future__ import annotations

import math

import numpy as np

from gpuconv import ops
from gpuconv.dtypes import accumulation_dtype
from gpuconv.types import Options
from gpuconv.verify.bounds import accumulation, rounding
from gpuconv.verify.compare import Expected
from gpuconv.verify.rules.activations import softmax_error
from gpuconv.verify.rules.base import Arrays, number_of


def softmax_cross_entropy(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    logits, labels, weight = (*arrays, None)[:3]
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, weight, **options)
    n, classes = logits.shape
    most, summed = _row_weight_and_length(labels, weight, options.get("ignore_index"))
    acc, y = accumulation_dtype(dtype), ops.softmax(logits)
    scale = number_of(options, "grad_scale", 1.0)
    magnitude = most * (2 * np.abs(logits).max(1).mean() + math.log(classes) + 1) + abs(loss)
    error = most * softmax_error(logits, y, dtype)
    error += accumulation(dtype, 7 + summed, 2 * most * y + np.abs(n * dlogits / scale))
    dlogits_bound = error / n * scale + rounding(dtype, dlogits)
    return [
        Expected("loss", loss, accumulation(acc, n + 2 * classes + 8 + summed, magnitude)),
        Expected("dlogits", dlogits, dlogits_bound),
    ]


def _row_weight_and_length(labels: np.ndarray, weight: np.ndarray | None, ignored: int | None) -> tuple[float, int]:
    """(most, summed). most: a bound on rows * (the weighted sum of a row's targets) / (the loss's divisor). summed: how
    many values are added up in such sums."""
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
        slopes = weighs / scores.size * number_of(options, "grad_scale", 1.0)
    return [
        Expected("loss", loss, accumulation(accumulation_dtype(dtype), scores.size + 10, magnitude)),
        Expected("dscores", dscores, accumulation(dtype, 10, slopes) + rounding(dtype, dscores)),
    ]


def metrics(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
    totals, loss, scores, *others = arrays
    ops.add_metrics(totals, loss, scores, *others, **options)
    length = 2 + (len(scores) if len(totals) == 5 else 0)  # five totals: the weights of the rows are summed
    return [Expected("totals", totals, accumulation(np.float64, length, totals))]
