"""Losses over a batch, each with its gradient: launchers of kernels/softmax_cross_entropy.cu, svm_hinge.cu and
elementwise_loss.cu. `add_metrics`, the running metrics, launches metrics.cu."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.backends.cuda.ops.class_rows import row_blocks, row_module
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import Kernel, load
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, store
from gpuconv.backends.cuda.runtime.scalars import device_scalar
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import expect_within
from gpuconv.types import Array, ArrayT, Scalar

_IGNORE_NOTHING = -(2**63)  # IGNORE_NOTHING of kernels/labels.cuh; an ignore_index is larger


def softmax_cross_entropy(
    logits: ArrayT,
    labels: Array,
    weight: Array | None,
    *,
    label_smoothing: float,
    ignore_index: int | None,
    grad_scale: Scalar,
    out: ArrayT | None,
) -> tuple[ArrayT, ArrayT]:
    logits, labels, weight = contiguous(logits, labels, weight)
    _refuse_wrong_labels(labels, logits.shape[1], ignore_index)
    ignored = _ignored_label(labels.dtype, ignore_index)
    divides = labels.ndim == 1 and not (weight is None and ignore_index is None)
    divisor = _label_weights(logits, labels, weight, ignored) if divides else None
    return _loss("softmax_cross_entropy", logits, labels, label_smoothing, grad_scale, out, weight, divisor, ignored)


def _ignored_label(dtype: np.dtype, ignore_index: int | None) -> int:
    """The label that a kernel ignores. dtype: that of the labels. Kernels read labels as int64, in which a large uint64
    is a negative number. So with unsigned labels, a negative ignore_index is not passed to the kernel."""
    if ignore_index is None or (ignore_index < 0 and dtype.kind == "u"):
        return _IGNORE_NOTHING
    return ignore_index


def _label_weights(logits: Array, labels: Array, weight: Array | None, ignored: int) -> Array:
    """The sum of the weights of the labels that are not ignored."""
    (rows, classes), dtype = logits.shape, accumulation_dtype(logits.dtype)
    module, _ = row_module("softmax_cross_entropy.cu", logits, LABEL=labels.dtype)
    blocks = row_blocks(rows, 1)
    partials, total = empty((blocks,), dtype, like=logits), empty((), dtype, like=logits)
    module.kernel("label_weights")(
        blocks, THREADS, total, partials, block_counters(logits), labels, rows, classes, weight, ignored
    )
    return total


def svm_hinge(
    scores: ArrayT, labels: Array, *, delta: float, grad_scale: Scalar, out: ArrayT | None
) -> tuple[ArrayT, ArrayT]:
    scores, labels = contiguous(scores, labels)
    _refuse_wrong_labels(labels, scores.shape[1])
    return _loss("svm_hinge", scores, labels, delta, grad_scale, out)


def _loss(
    name: str, scores: ArrayT, labels: Array, option: float, grad_scale: Scalar, out: ArrayT | None, *more: object
) -> tuple[ArrayT, ArrayT]:
    """Launch the kernel `name` of the file `name`.cu, a loss over class scores. option: label_smoothing or delta."""
    rows, classes = scores.shape
    module, lanes = row_module(f"{name}.cu", scores, LABEL=labels.dtype)
    arguments = rows, classes, lanes, option, *device_scalar(grad_scale, np.float64), *more
    return _launch(module.kernel(name), row_blocks(rows, lanes), scores, labels, out, *arguments)


def mean_squared_error(
    scores: ArrayT, targets: Array, *, grad_scale: Scalar, out: ArrayT | None
) -> tuple[ArrayT, ArrayT]:
    return _elementwise("mean_squared_error", scores, targets, grad_scale, out)


def huber_loss(
    scores: ArrayT, targets: Array, *, delta: float, grad_scale: Scalar, out: ArrayT | None
) -> tuple[ArrayT, ArrayT]:
    return _elementwise("huber_loss", scores, targets, grad_scale, out, delta)


def binary_cross_entropy(
    scores: ArrayT, targets: Array, pos_weight: Array | None, *, grad_scale: Scalar, out: ArrayT | None
) -> tuple[ArrayT, ArrayT]:
    (pos_weight,) = contiguous(pos_weight)
    return _elementwise("binary_cross_entropy", scores, targets, grad_scale, out, pos_weight, scores.shape[-1])


def _elementwise(
    name: str, scores: ArrayT, targets: Array, grad_scale: Scalar, out: ArrayT | None, *options: object
) -> tuple[ArrayT, ArrayT]:
    """Launch a kernel of elementwise_loss.cu."""
    scores, targets = contiguous(scores, targets)
    kernel = load("elementwise_loss.cu", {"DTYPE": scores.dtype, "LABEL": targets.dtype}).kernel(name)
    arguments = scores.size, *device_scalar(grad_scale, np.float64), *options
    return _launch(kernel, row_blocks(scores.size, 1), scores, targets, out, *arguments)


def _launch(
    kernel: Kernel, blocks: int, scores: ArrayT, targets: Array, out: ArrayT | None, *arguments: object
) -> tuple[ArrayT, ArrayT]:
    """Launch kernel(loss, gradient, partials, counter, scores, targets, arguments...); returns (loss, gradient)."""
    loss = empty((), accumulation_dtype(scores.dtype), like=scores)
    gradient = buffer(out, scores.shape, scores.dtype, like=scores)
    partials = empty((blocks,), loss.dtype, like=scores)
    kernel(blocks, THREADS, loss, gradient, partials, block_counters(scores), scores, targets, *arguments)
    return loss, store(gradient, out)


def _refuse_wrong_labels(labels: Array, classes: int, ignored: int | None = None) -> None:
    """Raise ValueError for a label outside the classes, if the host can read the device's memory."""
    if labels.ndim == 1 and isinstance(labels, np.ndarray) and emulator.host_reads():
        expect_within("labels", labels, classes, but=ignored)


def add_metrics(
    totals: Array, loss: Array, scores: Array, labels: Array | None, weight: Array | None, *, ignore_index: int | None
) -> None:
    scores, labels, weight = contiguous(scores, labels, weight)
    label_dtype = np.dtype(np.int64) if labels is None else labels.dtype
    ignored = _ignored_label(label_dtype, ignore_index)
    load("metrics.cu", {"DTYPE": scores.dtype, "LABEL": label_dtype}).kernel("metrics_add")(
        1, THREADS, totals, loss, scores, labels, len(scores), scores.shape[-1], ignored, weight, len(totals)
    )
