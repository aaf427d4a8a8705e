"""Losses over a batch, each with its gradient."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu.precision import store, widen
from gpuconv.host_values import expect_within, value_of


def softmax_cross_entropy(logits, labels, weight, *, label_smoothing, ignore_index, grad_scale, out):
    rows = _rows(logits, labels, ignore_index) if labels.ndim == 1 else None
    log_p = widen(logits)
    log_p = log_p - log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))

    if rows is not None and weight is None and ignore_index is None:
        loss, dlogits = _loss_of_labels(log_p, rows, labels, label_smoothing)
    else:
        loss, dlogits = _loss_of_targets(log_p, *_targets(log_p, rows, labels, weight, label_smoothing))
    dlogits *= value_of(grad_scale)
    return np.asarray(loss, dlogits.dtype), store(dlogits, logits.dtype, out)


def _loss_of_labels(log_p, rows, labels, label_smoothing):
    """The loss and its gradient in the usual case, without an array of targets; log_p is overwritten."""
    loss = -(1 - label_smoothing) * log_p[rows, labels].mean()
    if label_smoothing:  # 0 * -inf would be NaN
        loss -= label_smoothing * log_p.mean()
    gradient = np.exp(log_p, out=log_p)
    gradient -= label_smoothing / log_p.shape[1]
    gradient[rows, labels] -= 1 - label_smoothing
    gradient /= len(log_p)
    return loss, gradient


def _targets(log_p, rows, labels, weight, label_smoothing):
    """A weight for each class of each row, and the divisor of the mean. In ignored rows the weights, and log_p, become
    0."""
    if rows is None:
        target, divisor = labels.astype(log_p.dtype), len(labels)
    else:
        target, known = np.zeros_like(log_p), labels[rows]
        target[rows, known] = 1
        divisor = len(rows) if weight is None else weight[known].sum()
    target *= 1 - label_smoothing
    target += label_smoothing / log_p.shape[1]
    if weight is not None:
        target *= weight
    if rows is not None:
        ignored = np.delete(np.arange(len(labels)), rows)
        target[ignored], log_p[ignored] = 0, 0
    return target, divisor or np.inf  # a total weight of 0: loss and gradient are 0


def _loss_of_targets(log_p, target, divisor):
    loss = -np.where(target != 0, target * log_p, 0).sum() / divisor
    gradient = np.exp(log_p, out=log_p)
    gradient *= target.sum(axis=1, keepdims=True)
    gradient -= target
    gradient /= divisor
    return loss, gradient


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


def mean_squared_error(scores, targets, *, grad_scale, out):
    d = _differences(scores, targets)
    return _mean(d * d, 2 * d, scores.dtype, grad_scale, out)


def huber_loss(scores, targets, *, delta, grad_scale, out):
    d = _differences(scores, targets)
    slope = np.clip(d, -delta, delta)
    return _mean(slope * (d - slope / 2), slope, scores.dtype, grad_scale, out)


def binary_cross_entropy(scores, targets, pos_weight, *, grad_scale, out):
    x = widen(scores)
    t, e = targets.astype(x.dtype), np.exp(-np.abs(x))
    positive = t if pos_weight is None else pos_weight * t
    v = positive + (1 - t)
    loss = (1 - t) * x + v * (np.log1p(e) + np.maximum(-x, 0))
    slope = v * (np.where(x < 0, e, 1) / (1 + e)) - positive
    return _mean(loss, slope, scores.dtype, grad_scale, out)


def _differences(scores, targets):
    x = widen(scores)
    return x - targets.astype(x.dtype)


def _mean(losses, slopes, dtype, grad_scale, out):
    slopes /= losses.size
    slopes *= value_of(grad_scale)
    return np.asarray(losses.mean(), losses.dtype), store(slopes, dtype, out)


def _rows(scores: np.ndarray, labels: np.ndarray, ignored: int | None = None) -> np.ndarray:
    """The indices of the rows that are not ignored. Raises ValueError if the label of one of them is not a class."""
    expect_within("labels", labels, scores.shape[1], but=ignored)
    return np.arange(len(labels)) if ignored is None else np.flatnonzero(labels != ignored)


def add_metrics(totals, loss, scores, labels, weight, *, ignore_index):
    counted = len(scores)
    if labels is not None:
        right = scores.argmax(axis=1) == (labels if labels.ndim == 1 else labels.argmax(axis=1))
        if labels.ndim == 1 and ignore_index is not None:
            kept = labels != ignore_index
            right, labels = right[kept], labels[kept]
            counted = len(right)
        totals[1] += right.sum()
    total_weight = counted
    if weight is not None:
        total_weight = weight[labels[(labels >= 0) & (labels < len(weight))]].sum(dtype=np.float64)
    totals[0] += np.float64(loss) * total_weight
    totals[4:] += total_weight
    totals[2] += counted
    totals[3] += np.isfinite(totals[0])
