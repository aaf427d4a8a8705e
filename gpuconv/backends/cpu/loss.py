"""Losses over a batch of class scores, each with its gradient."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import expect_within
from gpuconv.backends.cpu.elementwise import value_of
from gpuconv.backends.cpu.precision import store, widen


@np.errstate(all="ignore")  # scores of inf or NaN make a loss of NaN, as on a GPU
def softmax_cross_entropy(logits, labels, *, label_smoothing, grad_scale, out):
    rows = _rows(logits, labels) if labels.ndim == 1 else None
    log_p = widen(logits)
    log_p = log_p - log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))

    if rows is None:
        loss, dlogits = _toward_targets(log_p, labels.astype(log_p.dtype), label_smoothing)
    else:
        loss, dlogits = _toward_labels(log_p, rows, labels, label_smoothing)
    dlogits /= len(logits)
    dlogits *= value_of(grad_scale)
    return np.asarray(loss, dlogits.dtype), store(dlogits, logits.dtype, out)


def _toward_labels(log_p, rows, labels, label_smoothing):
    """The loss, and the sum of its gradients; log_p is overwritten."""
    loss = -(1 - label_smoothing) * log_p[rows, labels].mean()
    if label_smoothing:  # 0 * -inf would be NaN
        loss -= label_smoothing * log_p.mean()
    gradient = np.exp(log_p, out=log_p)
    gradient -= label_smoothing / log_p.shape[1]
    gradient[rows, labels] -= 1 - label_smoothing
    return loss, gradient


def _toward_targets(log_p, target, label_smoothing):
    target *= 1 - label_smoothing
    target += label_smoothing / log_p.shape[1]
    loss = -np.where(target != 0, target * log_p, 0).sum() / len(log_p)
    gradient = np.exp(log_p, out=log_p)
    gradient *= target.sum(axis=1, keepdims=True)
    gradient -= target
    return loss, gradient


@np.errstate(all="ignore")
def svm_hinge(scores, labels, *, delta, grad_scale, out):
    rows, n = _rows(scores, labels), len(scores)
    wide = widen(scores)
    margins = np.maximum(0, wide - wide[rows, labels][:, None] + delta)
    margins[rows, labels] = 0
    loss = margins.sum() / n

    dscores = (margins > 0).astype(wide.dtype)
    dscores[rows, labels] = -dscores.sum(axis=1)
    dscores /= n
    dscores *= value_of(grad_scale)
    return np.asarray(loss, wide.dtype), store(dscores, scores.dtype, out)


def _rows(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The row numbers, after checking that every label is a class."""
    expect_within("labels", labels, scores.shape[1])
    return np.arange(len(labels))


def add_metrics(totals, loss, scores, labels):
    totals[0] += np.float64(loss) * len(labels)
    right = labels if labels.ndim == 1 else labels.argmax(axis=1)
    totals[1] += (scores.argmax(axis=1) == right).sum()
    totals[2] += len(labels)
    totals[3] += np.isfinite(totals[0])
