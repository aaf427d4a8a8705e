"""The sanity checks of the CS231n notes: a net, its loss and its optimizer before a long training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import arguments, backends, losses, ops
from gpuconv.layers import Dropout, Sequential
from gpuconv.layers.base import expect_built
from gpuconv.losses import Loss, SoftmaxCrossEntropy, SVMHinge
from gpuconv.metrics import class_of
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.training.optimizers.base import Optimizer


@dataclass(frozen=True)
class SanityCheck:
    """One check: the measured value, the expectation in words, and whether they agree.

    Args:
        name: The check's name.
        passed: Whether the value meets the expectation.
        value: The measured value.
        expected: The expectation in words.
        details: More lines, or "".
    """

    name: str
    passed: bool
    value: float
    expected: str
    details: str = ""


def sanity(
    net: Sequential,
    x: Array,
    labels: Array,
    *,
    loss: str | Loss = "softmax",
    optimizer: Optimizer | None = None,
    overfit_steps: int = 300,
) -> list[SanityCheck]:
    """The four sanity checks below, on a batch of the net's data. The net is not changed.

    Args:
        net: Built, and not trained yet.
        x: (N, H, W, C) on the net's device, N of 20 or more.
        labels: (N,) integers, or the float targets that the loss takes.
        loss: A name, a short form, such as "softmax:label_smoothing=0.1", or a function (`gpuconv.losses`).
        optimizer: Its first step is measured, see `update_ratio`.
        overfit_steps: The largest number of steps to overfit 20 samples.

    Raises ValueError if the loss ignores all labels, RuntimeError for a net that is not built, and TypeError for
    anything but a net.
    """
    _expect_optimizer(optimizer)
    return [
        first_loss(net, x, labels, loss=loss),
        regularization(net, x, labels, loss=loss),
        overfits(net, x[:20], labels[:20], loss=loss, steps=overfit_steps),
        update_ratio(net, x, labels, loss=loss, optimizer=optimizer),
    ]


def first_loss(net: Sequential, x: Array, labels: Array, *, loss: str | Loss = "softmax") -> SanityCheck:
    """The loss at scores near 0 must be that of guessing, within 5 %. The loss of guessing is log C for softmax, and
    delta * (C - 1) for the SVM. For other losses, and for softmax with class weights and either label smoothing or
    probabilities as labels, it is the loss at scores of 0.
    The check makes the scores small by scaling down the last layer with weights, on a copy of the net. Another value
    means a wrong loss, such as a sum over the batch, or scores that are not near 0, for example because the images were
    not scaled.

    Arguments and errors as in `sanity`. Raises ValueError for a net without weights, and for a classification loss of a
    net that gives only one score.
    """
    compute = _loss_function(net, loss, labels)
    ours = losses.is_ours(compute)
    if net.output_shape == (1,) and ours and losses.classifies(compute):
        raise ValueError("the net gives one score: there is nothing to classify; the checks need at least two classes")
    twin = net.copy()
    weighted = [layer for layer in twin.walk() if "weight" in layer.arrays]
    if not weighted:
        raise ValueError("the net has no layer with weights to scale down")
    for array in weighted[-1].arrays.values():
        backends.assign(array, backends.to_numpy(array) * array.dtype.type(1e-3))
    scores = twin.forward(x, training=True)
    twin.release()
    value = _number(losses.apply(compute, scores, labels)[0])
    classes = scores.shape[-1]
    reason = f"guessing among {classes} classes"
    soft = labels.ndim > 1 or getattr(compute, "label_smoothing", 0.0) > 0
    if ours and isinstance(compute, SoftmaxCrossEntropy) and not (losses.is_weighted(compute) and soft):
        guess = math.log(classes)
    elif ours and isinstance(compute, SVMHinge):
        guess = compute.delta * (classes - 1)
    else:
        zeros = backends.zeros(scores.shape, scores.dtype, net.device)
        guess = _number(losses.apply(compute, zeros, labels)[0])
        reason = "scores of 0"
    close = abs(value - guess) <= 0.05 * abs(guess)
    return SanityCheck("first loss", close, value, f"{guess:.4f}, that of {reason}")


def regularization(
    net: Sequential, x: Array, labels: Array, *, loss: str | Loss = "softmax", weight_decay: float = 1e-2
) -> SanityCheck:
    """The penalty of regularization, weight_decay / 2 * sum of squares, must raise the loss, and a gradient step on the
    penalty alone must lower the penalty.

    Args:
        weight_decay: The factor of the regularization, above 0.

    Other arguments and errors as in `sanity`. Raises TypeError or ValueError if `weight_decay` is not a number above 0.
    """
    weight_decay = arguments.positive("weight_decay", weight_decay)
    compute = _loss_function(net, loss, labels)
    twin = net.copy()
    data = _number(losses.apply(compute, twin.infer(x), labels)[0])
    before = _penalty(twin, weight_decay)
    params = list(twin.params().values())
    zeros = [backends.zeros(p.shape, p.dtype, net.device) for p in params]
    # The step multiplies each value by 1 - lr * weight_decay; this lr keeps the factor between 0.5 and 1.
    ops.sgd_step(params, zeros, lr=min(1.0, 0.5 / weight_decay), weight_decay=weight_decay)
    after = _penalty(twin, weight_decay)
    return SanityCheck(
        "regularization raises the loss",
        data + before > data and after < before,
        data + before,
        f"more than {data:.4f}",
        f"weight decay {weight_decay:g}; one gradient step lowers the penalty to {after:.4f}",
    )


def overfits(
    net: Sequential, x: Array, labels: Array, *, loss: str | Loss = "softmax", steps: int = 300, lr: float = 1e-3
) -> SanityCheck:
    """The net must overfit a few samples. If the loss classifies, every sample whose label it does not ignore must be
    classified correctly. The loss must fall by nine tenths of the distance from its initial value to its minimum. The
    minimum is taken to be 0; for softmax it is that of the loss's targets, which label smoothing, class weights and
    probabilities as labels change. Trains with Adam, without regularization and dropout, until both conditions hold or
    the loss is not finite.

    Args:
        steps: The largest number of steps, at least 1.
        lr: Adam's learning rate.

    Other arguments and errors as in `sanity`.
    """
    steps = arguments.integer("steps", steps, 1)
    compute = _loss_function(net, loss, labels)
    twin = _without_dropout(net)
    m, v = ([backends.zeros(p.shape, p.dtype, net.device) for p in twin.params().values()] for _ in range(2))
    truth = class_of(backends.to_numpy(labels)) if losses.classifies(compute) else None  # None: all count as right
    ignored = losses.ignored_label(compute)
    value, goal = math.inf, -math.inf
    right, step = 0.0, 0
    for step in range(1, steps + 1):
        scores = twin.forward(x, training=True)
        value_now, dscores = losses.apply(compute, scores, labels)
        value = _number(value_now)
        if step == 1:
            least = _loss_of_perfect_scores(compute, backends.to_numpy(labels), scores.shape[-1])
            goal = least + 0.1 * (value - least)
        best = backends.to_numpy(scores).argmax(axis=-1)
        right = 1.0 if truth is None else float(np.mean((best == truth)[truth != ignored]))
        if not math.isfinite(value) or (right == 1.0 and value < goal):
            break
        twin.zero_grad()
        twin.backward(dscores, input_grad=False)
        ops.adam_step(list(twin.params().values()), list(twin.grads().values()), m, v, lr=lr, step=step)
    expected, details = f"under {goal:.4f}", f"at step {step}"
    if truth is not None:
        expected, details = f"{expected}, every label right", f"{right:.0%} right {details}"
    return SanityCheck(f"overfits {len(labels)} samples", right == 1.0 and value < goal, value, expected, details)


def _loss_of_perfect_scores(loss: Loss, labels: np.ndarray, classes: int) -> float:
    """The least possible loss: for softmax with the targets t, smoothed and multiplied by the class weights, that of
    scores whose softmax is t / sum(t) in each row, -sum(t * log(t / sum(t))). For other losses it is 0 or, with label
    smoothing, the entropy of the smoothed targets."""
    if not (losses.is_ours(loss) and isinstance(loss, SoftmaxCrossEntropy)):
        smoothing = getattr(loss, "label_smoothing", 0.0)
        target = np.full(classes, smoothing / classes)
        target[0] += 1 - smoothing
        return float(-np.sum(target * np.log(target, where=target > 0, out=np.zeros(classes))))
    weight = np.array(loss.weight or [1.0] * classes, np.float64)
    if labels.ndim == 1:
        counted = labels[labels != loss.ignore_index]
        targets, divisor = np.eye(classes)[counted], weight[counted].sum()
    else:
        targets, divisor = labels.astype(np.float64), len(labels)
    targets = weight * ((1 - loss.label_smoothing) * targets + loss.label_smoothing / classes)
    shares = targets / np.maximum(targets.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return float(-np.sum(targets * np.log(shares, where=shares > 0, out=np.zeros_like(shares))) / (divisor or 1.0))


def update_ratio(
    net: Sequential, x: Array, labels: Array, *, loss: str | Loss = "softmax", optimizer: Optimizer | None = None
) -> SanityCheck:
    """One step must change the weights by about a thousandth: the median of |change of w| / |w| over the weights must
    be between 1e-4 and 1e-2. The details list each weight's ratio.

    Args:
        optimizer: A new object with ``build(params)`` and ``step(params, grads)``; by default plain SGD at 1e-3.

    Other arguments and errors as in `sanity`. Raises TypeError if `optimizer` lacks these methods or is a class, and
    ValueError for a net that trains no weight of two or more dimensions; only such weights are measured.
    """
    _expect_optimizer(optimizer)
    compute = _loss_function(net, loss, labels)
    if all(len(value.shape) < 2 for value in net.params().values()):
        raise ValueError(
            "the check measures the change of weights of two or more dimensions, and the net trains none, only "
            f"{[*net.params()]}"
        )
    twin = net.copy()
    _, dscores = losses.apply(compute, twin.forward(x, training=True), labels)
    twin.backward(dscores, input_grad=False)
    params, grads = twin.params(), twin.grads()
    weights = backends.host_copies({key: value for key, value in params.items() if len(value.shape) > 1})
    if optimizer is None:
        ops.sgd_step(list(params.values()), list(grads.values()), lr=1e-3)
    else:
        optimizer.build(params)
        optimizer.step(params, grads)
    ratios = {
        key: _norm(backends.to_numpy(params[key]) - value) / max(_norm(value), 1e-30) for key, value in weights.items()
    }
    middle = float(np.median(list(ratios.values())))
    listed = ", ".join(f"{key} {ratio:.1e}" for key, ratio in ratios.items())
    return SanityCheck("update-to-weight ratio", 1e-4 <= middle <= 1e-2, middle, "near 1e-3", listed)


def _loss_function(net: Sequential, loss: str | Loss, labels: Array) -> Loss:
    """The loss function. Raises ValueError if it ignores all of these labels, and as `expect_built` does."""
    expect_built(net)
    compute = losses.get(loss)
    ignored, given = losses.ignored_label(compute), backends.to_numpy(labels)
    if ignored is not None and given.size and (given == ignored).all():
        raise ValueError(f"all {len(given)} labels are {ignored}, which the loss ignores; the checks need others too")
    return compute


def _expect_optimizer(optimizer: object) -> None:
    is_one = hasattr(optimizer, "build") and hasattr(optimizer, "step") and not isinstance(optimizer, type)
    if optimizer is not None and not is_one:
        raise TypeError(
            "optimizer must be an object such as gpuconv.training.Adam(), with build(params) and step(params, grads), "
            f"received {type(optimizer).__name__}"
        )


def _without_dropout(net: Sequential) -> Sequential:
    twin = net.copy()
    for layer in twin.walk():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    return twin


def _number(array: Array) -> float:
    return float(backends.to_numpy(array))


def _norm(array: Array) -> float:
    return float(np.linalg.norm(backends.to_numpy(array).astype(np.float64)))


def _penalty(net: Sequential, weight_decay: float) -> float:
    return 0.5 * weight_decay * sum(_norm(value) ** 2 for value in net.params().values())
