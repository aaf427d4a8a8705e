"""Losses with their gradients, and the running sums of metrics. The `out` of a loss may be its scores."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import INT64_MAX, integer, number, positive, step_scalar
from gpuconv.backends import backend_of
from gpuconv.dtypes import accumulation_dtype, is_float
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.expect import expect_any_float, expect_float, expect_out, expect_shape, expect_writable
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT, Scalar

__all__ = [
    "add_metrics",
    "binary_cross_entropy",
    "huber_loss",
    "mean_squared_error",
    "softmax_cross_entropy",
    "svm_hinge",
]


@op("softmax_cross_entropy.cu")
def softmax_cross_entropy(
    logits: ArrayT,
    labels: Array,
    weight: Array | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    grad_scale: Scalar = 1.0,
    out: ArrayT | None = None,
) -> tuple[ArrayT, ArrayT]:
    """The mean over the batch of -sum over classes of t * log softmax(logits), with the target
    t = (1 - label_smoothing) * onehot(label) + label_smoothing / classes. Labels that are probabilities take the place
    of onehot(label).

    The gradient is grad_scale * (sum(t) * softmax - t) / N, scaled before it is rounded. A weight multiplies t class by
    class; with integer labels the mean is then a weighted mean: N is replaced by the sum of the labels' weights. A row
    that is ignored counts neither in the loss nor in N, and its gradient is 0. If nothing counts, loss and gradient are
    0. (This is PyTorch's cross_entropy, except that PyTorch returns NaN in this last case.)

    Args:
        logits: (N, classes), any float dtype.
        labels: (N,) integers in [0, classes), or (N, classes) probabilities of any float dtype. That a row adds up to 1
            is not checked.
        weight: (classes,), each at least 0, in the accumulation dtype of logits. Its numbers are not checked.
        label_smoothing: In [0, 1] (Szegedy et al. 2016).
        ignore_index: The integer label of rows that are ignored; may be outside of [0, classes).
        grad_scale: A factor on the gradient, at least 0; may be a float64 array of one element.
        out: Receives dlogits; may be logits itself.

    Returns:
        The loss, 0-d in the accumulation dtype, and dlogits, of the shape and dtype of logits.

    Raises:
        ValueError: A label outside of [0, classes) that is not ignored, where the host can read the arrays; on a GPU,
            which is not synchronized, it makes the loss NaN. An empty batch. An ignore_index for probabilities.
    """
    optional, numbers = dict(weight=weight, out=out), dict(grad_scale=grad_scale)
    backend = backend_of(logits=logits, labels=labels, optional=optional, numbers=numbers)
    _expect_scores_and_labels(logits, labels, out, name="logits", soft=True)
    label_smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    ignore_index = _ignored(ignore_index, labels)
    _expect_weight("weight", weight, logits, "one for each class")
    grad_scale = step_scalar("grad_scale", grad_scale, [logits])
    logits, labels = copy_if_overlapping([out], logits, labels, in_place=True)
    (weight,) = copy_if_overlapping([out], weight)
    return backend.loss.softmax_cross_entropy(
        logits,
        labels,
        weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        grad_scale=grad_scale,
        out=out,
    )


@op("svm_hinge.cu")
def svm_hinge(
    scores: ArrayT, labels: Array, *, delta: float = 1.0, grad_scale: Scalar = 1.0, out: ArrayT | None = None
) -> tuple[ArrayT, ArrayT]:
    """The multiclass SVM loss: mean over the batch of the sum over wrong classes j of
    max(0, scores[j] - scores[label] + delta) (Weston and Watkins 1999; not divided by the number of classes).

    Where the second argument of max is exactly 0, the gradient is 0.

    Args:
        scores: (N, classes), any float dtype.
        labels: (N,) integers in [0, classes).
        delta: The margin, at least 0.
        grad_scale: A factor on the gradient, at least 0; may be a float64 array of one element.
        out: Receives dscores; may be scores itself.

    Returns:
        The loss, 0-d in the accumulation dtype, and dscores, of the shape and dtype of scores.

    Raises:
        ValueError: A label outside of [0, classes), where the host can read the arrays; on a GPU, which is not
            synchronized, it makes the loss NaN. An empty batch.
    """
    backend = backend_of(scores=scores, labels=labels, optional=dict(out=out), numbers=dict(grad_scale=grad_scale))
    _expect_scores_and_labels(scores, labels, out, name="scores")
    delta = number("delta", delta, 0.0, used_with=[scores])
    grad_scale = step_scalar("grad_scale", grad_scale, [scores])
    scores, labels = copy_if_overlapping([out], scores, labels, in_place=True)
    return backend.loss.svm_hinge(scores, labels, delta=delta, grad_scale=grad_scale, out=out)


@op("elementwise_loss.cu")
def mean_squared_error(
    scores: ArrayT, targets: Array, *, grad_scale: Scalar = 1.0, out: ArrayT | None = None
) -> tuple[ArrayT, ArrayT]:
    """The mean over all elements of (scores - targets)**2.

    Args:
        scores: (N, ...), any float dtype.
        targets: Of the scores' shape, any float dtype.
        grad_scale: A factor on the gradient, at least 0; may be a float64 array of one element.
        out: Receives dscores; may be scores itself.

    Returns:
        The loss, 0-d in the accumulation dtype, and dscores, of the shape and dtype of scores.

    Raises:
        ValueError: Scores without elements, or targets of another shape.
        TypeError: An array of another dtype.
    """
    backend = backend_of(scores=scores, targets=targets, optional=dict(out=out), numbers=dict(grad_scale=grad_scale))
    _expect_scores_and_targets(scores, targets, out)
    grad_scale = step_scalar("grad_scale", grad_scale, [scores])
    scores, targets = copy_if_overlapping([out], scores, targets, in_place=True)
    return backend.loss.mean_squared_error(scores, targets, grad_scale=grad_scale, out=out)


@op("elementwise_loss.cu")
def huber_loss(
    scores: ArrayT, targets: Array, *, delta: float = 1.0, grad_scale: Scalar = 1.0, out: ArrayT | None = None
) -> tuple[ArrayT, ArrayT]:
    """The mean over all elements of d**2 / 2 where abs(d) <= delta, and of delta * (abs(d) - delta / 2) beyond, with
    d = scores - targets (Huber 1964; with delta 1 also the smooth L1 loss).

    Args:
        scores: (N, ...), any float dtype.
        targets: Of the scores' shape, any float dtype.
        delta: Where the parabola becomes linear, above 0.
        grad_scale: A factor on the gradient, at least 0; may be a float64 array of one element.
        out: Receives dscores; may be scores itself.

    Returns:
        The loss, 0-d in the accumulation dtype, and dscores, of the shape and dtype of scores.

    Raises:
        ValueError: Scores without elements, or targets of another shape.
        TypeError: An array of another dtype.
    """
    backend = backend_of(scores=scores, targets=targets, optional=dict(out=out), numbers=dict(grad_scale=grad_scale))
    _expect_scores_and_targets(scores, targets, out)
    delta = positive("delta", delta, used_with=[scores])
    grad_scale = step_scalar("grad_scale", grad_scale, [scores])
    scores, targets = copy_if_overlapping([out], scores, targets, in_place=True)
    return backend.loss.huber_loss(scores, targets, delta=delta, grad_scale=grad_scale, out=out)


@op("elementwise_loss.cu")
def binary_cross_entropy(
    scores: ArrayT,
    targets: Array,
    pos_weight: Array | None = None,
    *,
    grad_scale: Scalar = 1.0,
    out: ArrayT | None = None,
) -> tuple[ArrayT, ArrayT]:
    """The mean over all elements of -(p * t * log sigmoid(x) + (1 - t) * log(1 - sigmoid(x))), with the scores x, the
    targets t and the weight p of the positive class: PyTorch's binary_cross_entropy_with_logits.

    Args:
        scores: (N, ...), any float dtype.
        targets: Of the scores' shape, any float dtype: probabilities. That they lie in [0, 1] is not checked.
        pos_weight: (C,), one for each entry of the scores' last axis, in their accumulation dtype. Its numbers are
            not checked.
        grad_scale: A factor on the gradient, at least 0; may be a float64 array of one element.
        out: Receives dscores; may be scores itself.

    Returns:
        The loss, 0-d in the accumulation dtype, and dscores, of the shape and dtype of scores.

    Raises:
        ValueError: Scores without elements, or targets or pos_weight of another shape.
        TypeError: An array of another dtype.
    """
    optional, numbers = dict(pos_weight=pos_weight, out=out), dict(grad_scale=grad_scale)
    backend = backend_of(scores=scores, targets=targets, optional=optional, numbers=numbers)
    _expect_scores_and_targets(scores, targets, out)
    _expect_weight("pos_weight", pos_weight, scores, "one for each entry of the last axis")
    grad_scale = step_scalar("grad_scale", grad_scale, [scores])
    scores, targets = copy_if_overlapping([out], scores, targets, in_place=True)
    (pos_weight,) = copy_if_overlapping([out], pos_weight)
    return backend.loss.binary_cross_entropy(scores, targets, pos_weight, grad_scale=grad_scale, out=out)


@op("metrics.cu", changes="totals")
def add_metrics(
    totals: Array,
    loss: Array,
    scores: Array,
    labels: Array | None,
    weight: Array | None = None,
    *,
    ignore_index: int | None = None,
) -> None:
    """Add a batch to running sums on the device: totals += (loss * M, correct answers, M, 1), where M is the number of
    rows that are not ignored. The 1 is added only if totals[0] is finite afterwards. With a weight, totals[0] +=
    loss * W, where W is the sum of these rows' weights. If there are five totals, totals[4] += W, or += M without a
    weight.

    Args:
        totals: (4,) or (5,) float64, changed in place; with weight it must be (5,).
        loss: The batch's mean loss, 0-d, in the accumulation dtype of scores.
        scores: (N, classes), or (N, ...) if there are no labels, any float dtype. The first largest score of a row is
            the answer (NaN counts as largest).
        labels: (N,) int64, or (N, classes) of any float dtype, where the first largest value of a row is the
            right answer (NaN counts as largest). None if there is no notion of a right answer; totals[1] then stays
            unchanged.
        weight: (classes,), the class weights of the loss; only with integer labels. The numbers are not checked. A
            label outside the classes has weight 0, and its row counts as a wrong answer.
        ignore_index: The integer label of rows that do not count.

    Raises:
        TypeError: An array has another dtype, or totals another shape.
        ValueError: Another array has a shape that does not fit, the batch is empty, or there is a weight or an
            ignore_index without integer labels.
    """
    backend = backend_of(totals=totals, loss=loss, scores=scores, optional=dict(labels=labels, weight=weight))
    shapes = [(4,), (5,)] if weight is None else [(5,)]
    if totals.dtype != np.float64 or tuple(totals.shape) not in shapes:
        raise TypeError(
            f"totals must be float64 of shape {' or '.join(map(str, shapes))}, received {totals.dtype.name} of "
            f"{tuple(totals.shape)}"
        )
    if labels is None:
        _expect_not_empty(expect_any_float("scores", scores, 1))
    else:
        _expect_scores_and_labels(scores, labels, None, name="scores", soft=True)
    ignore_index = _ignored(ignore_index, labels)
    if labels is not None and labels.ndim == 1 and labels.dtype != np.int64:
        raise TypeError(f"labels must be int64 here, received {labels.dtype.name}")
    expect_shape("loss", loss, (), "a batch's mean")
    if loss.dtype != accumulation_dtype(scores.dtype):
        expected = accumulation_dtype(scores.dtype).name
        raise TypeError(f"loss must be {expected} for {scores.dtype.name} scores, received {loss.dtype.name}")
    _expect_weight("weight", weight, scores, "one for each class")
    if weight is not None and (labels is None or labels.ndim != 1):
        received = "none" if labels is None else f"{labels.dtype.name} of {tuple(labels.shape)}"
        raise ValueError(f"weight needs integer labels, whose weights it sums; received {received}")
    expect_writable(totals=totals)
    loss, scores, labels, weight = copy_if_overlapping([totals], loss, scores, labels, weight)
    backend.loss.add_metrics(totals, loss, scores, labels, weight, ignore_index=ignore_index)


def _expect_weight(name: str, weight: Array | None, scores: Array, why: str) -> None:
    if weight is None:
        return
    expect_shape(name, weight, scores.shape[-1:], why)
    if weight.dtype != (expected := accumulation_dtype(scores.dtype)):
        raise TypeError(f"{name} must be {expected.name} for {scores.dtype.name} scores, received {weight.dtype.name}")


def _ignored(label: int | None, labels: Array | None) -> int | None:
    if label is None:
        return None
    if labels is None or labels.ndim != 1:
        received = "none" if labels is None else f"{labels.dtype.name} of {tuple(labels.shape)}"
        raise ValueError(f"ignore_index={label} needs integer labels, received {received}")
    return integer("ignore_index", label, -INT64_MAX)


def _expect_not_empty(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(f"a mean loss needs at least one sample and one class, received shape {shape}")


@remembered
def _expect_scores_and_targets(scores: Array, targets: Array, out: Array | None) -> None:
    shape = expect_any_float("scores", scores, 1)
    _expect_not_empty(shape)
    if not is_float(targets.dtype):
        raise TypeError(f"targets must be floats of the scores' shape {shape}, received {targets.dtype.name}")
    expect_shape("targets", targets, shape, "one for each score")
    expect_out(out, shape, scores.dtype)


@remembered
def _expect_scores_and_labels(
    scores: Array, labels: Array, out: Array | None, *, name: str, soft: bool = False
) -> None:
    """soft: whether labels may be probabilities."""
    n, classes = expect_float(name, scores, "N classes")
    _expect_not_empty((n, classes))
    if soft and is_float(labels.dtype) and labels.ndim == 2:
        expect_shape("labels", labels, (n, classes), "a probability for each class")
    elif labels.dtype.kind not in "iu":
        floats = f", or floats of shape {(n, classes)}" if soft else ""
        raise TypeError(
            f"labels must be integers of shape {(n,)}{floats}, received {labels.dtype.name} of {tuple(labels.shape)}"
        )
    else:
        expect_shape("labels", labels, (n,), "one label for each row")
    expect_out(out, (n, classes), scores.dtype)
