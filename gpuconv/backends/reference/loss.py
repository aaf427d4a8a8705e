"""Losses over a batch, each with its gradient."""

import numpy as np

from gpuconv.backends.reference.precision import round_to, wide
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import expect_within, value_of


def softmax_cross_entropy(logits, labels, weight, *, label_smoothing, ignore_index, grad_scale, out):
    z, (n, classes), soft = wide(logits), logits.shape, labels.ndim == 2
    weight = np.ones(classes) if weight is None else wide(weight)
    unsmoothed = wide(labels) if soft else _right_answers(logits, labels, ignore_index)
    counts = np.full((n, 1), True) if soft else unsmoothed.any(axis=1, keepdims=True)
    divisor = n if soft else (unsmoothed @ weight).sum() or np.inf  # a total weight of 0: loss and gradient are 0
    target = counts * weight * ((1 - label_smoothing) * unsmoothed + label_smoothing / classes)
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    loss = -np.where(target != 0, target * log_p, 0).sum() / divisor  # 0 * -inf would be NaN
    slope = np.where(counts, target.sum(axis=1, keepdims=True) * np.exp(log_p) - target, 0) / divisor
    return round_to(loss, accumulation_dtype(logits.dtype)), round_to(value_of(grad_scale) * slope, logits.dtype, out)


def svm_hinge(scores, labels, *, delta, grad_scale, out):
    z, n, right = wide(scores), len(scores), _right_answers(scores, labels)
    margins = np.where(right, 0, np.maximum(0, z - z[right][:, None] + delta))
    counted = (margins > 0).astype(np.float64)
    dscores = value_of(grad_scale) * np.where(right, -counted.sum(axis=1, keepdims=True), counted) / n
    return round_to(margins.sum() / n, accumulation_dtype(scores.dtype)), round_to(dscores, scores.dtype, out)


def mean_squared_error(scores, targets, *, grad_scale, out):
    d = wide(scores) - wide(targets)
    return _mean(scores, d**2, 2 * d, grad_scale, out)


def huber_loss(scores, targets, *, delta, grad_scale, out):
    d = wide(scores) - wide(targets)
    slope = np.clip(d, -delta, delta)
    return _mean(scores, slope * (d - slope / 2), slope, grad_scale, out)


def binary_cross_entropy(scores, targets, pos_weight, *, grad_scale, out):
    x, t, p = wide(scores), wide(targets), 1 if pos_weight is None else wide(pos_weight)
    v, softplus = 1 + (p - 1) * t, np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)  # log(1 + exp(-x))
    return _mean(scores, (1 - t) * x + v * softplus, v * np.exp(-softplus) - p * t, grad_scale, out)


def _mean(scores, losses, slopes, grad_scale, out):
    loss, gradient = losses.mean(), value_of(grad_scale) * slopes / slopes.size
    return round_to(loss, accumulation_dtype(scores.dtype)), round_to(gradient, scores.dtype, out)


def _right_answers(scores: np.ndarray, labels: np.ndarray, ignored: int | None = None) -> np.ndarray:
    """(N, classes), True at each label that is not ignored. Raises ValueError if such a label is not a class."""
    expect_within("labels", labels, scores.shape[1], but=ignored)
    return (labels[:, None] == np.arange(scores.shape[1])) & (labels[:, None] != ignored)


def add_metrics(totals, loss, scores, labels, weight, *, ignore_index):
    hard = labels is not None and labels.ndim == 1
    counted = labels != ignore_index if hard else np.full(len(scores), True)
    weighed = counted & (labels >= 0) & (labels < scores.shape[1]) if hard else counted
    total_weight = counted.sum() if weight is None else wide(weight)[labels[weighed]].sum()
    totals[0] += np.float64(loss) * total_weight
    totals[4:] += total_weight
    if labels is not None:
        right = labels if hard else wide(labels).argmax(axis=1)
        totals[1] += (wide(scores).argmax(axis=1) == right)[counted].sum()
    totals[2:4] += counted.sum(), np.isfinite(totals[0])
