"""Losses over a batch of class scores, each with its gradient."""

import numpy as np

from gpuconv.arguments import expect_within
from gpuconv.backends.reference.precision import number, round_to, wide
from gpuconv.dtypes import accumulation_dtype


def softmax_cross_entropy(logits, labels, *, label_smoothing, grad_scale, out):
    z, (n, classes) = wide(logits), logits.shape
    given = _right_answers(logits, labels) if labels.ndim == 1 else wide(labels)
    target = (1 - label_smoothing) * given + label_smoothing / classes
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    loss = -np.where(target != 0, target * log_p, 0).sum() / n  # 0 * -inf would be NaN
    dlogits = number(grad_scale) * (target.sum(axis=1, keepdims=True) * np.exp(log_p) - target) / n
    return round_to(loss, accumulation_dtype(logits.dtype)), round_to(dlogits, logits.dtype, out)


def svm_hinge(scores, labels, *, delta, grad_scale, out):
    z, n, right = wide(scores), len(scores), _right_answers(scores, labels)
    margins = np.where(right, 0, np.maximum(0, z - z[right][:, None] + delta))
    counted = (margins > 0).astype(np.float64)
    dscores = number(grad_scale) * np.where(right, -counted.sum(axis=1, keepdims=True), counted) / n
    return round_to(margins.sum() / n, accumulation_dtype(scores.dtype)), round_to(dscores, scores.dtype, out)


def _right_answers(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, classes), True at each row's label. Raises ValueError for a label that is not a class."""
    expect_within("labels", labels, scores.shape[1])
    return labels[:, None] == np.arange(scores.shape[1])


def add_metrics(totals, loss, scores, labels):
    totals[0] += np.float64(loss) * len(labels)
    right = labels if labels.ndim == 1 else wide(labels).argmax(axis=1)
    totals[1] += (wide(scores).argmax(axis=1) == right).sum()
    totals[2] += len(labels)
    totals[3] += np.isfinite(totals[0])
