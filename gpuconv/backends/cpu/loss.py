"""Losses over a batch of class scores, each with its gradient."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import expect_within
from gpuconv.backends.cpu.elementwise import value_of
from gpuconv.backends.cpu.precision import store, widen


@np.errstate(all="ignore")  # scores of inf or NaN make a loss of NaN, as on a GPU
def softmax_cross_entropy(logits, labels, *, label_smoothing, grad_scale, out):
    rows, (n, classes) = _rows(logits, labels), logits.shape
    log_p = widen(logits)
    log_p = log_p - log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))

    loss = -(1 - label_smoothing) * log_p[rows, labels].mean()
    if label_smoothing:  # 0 * -inf would be NaN
        loss -= label_smoothing * log_p.mean()

    dlogits = np.exp(log_p, out=log_p)
    dlogits -= label_smoothing / classes
    dlogits[rows, labels] -= 1 - label_smoothing
    dlogits /= n
    dlogits *= value_of(grad_scale)
    return np.asarray(loss, dlogits.dtype), store(dlogits, logits.dtype, out)


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
    totals[1] += (scores.argmax(axis=1) == labels).sum()
    totals[2] += len(labels)
    totals[3] += np.isfinite(totals[0])
