"""Evaluation of a net on images: loss, accuracy, and which classes it confuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import backends, losses, ops
from gpuconv.data import Normalization
from gpuconv.layers import Layer
from gpuconv.layers.base import expect_built
from gpuconv.metrics import Confusion, TopK, begin, named
from gpuconv.names import canonical
from gpuconv.parallel import Ranks
from gpuconv.training import fit_loaders
from gpuconv.training.running_metrics import Totals
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.training.protocols import DataLike, LossLike, MetricLike

_CONFUSION = "confusion of this call"

TTA = {"none": 1, "mirror": 2, "shift": 3, "mirror+shift": 6}  # the number of views of each test-time augmentation


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Args:
        loss: The loss over all images.
        accuracy: Between 0 and 1; NaN if the loss takes a target for each score, so that there is no right class.
        samples: The number of images, not counting those whose label the loss ignores.
        confusion: int64 (classes, classes) or None; [i, j] counts the images of class i that were classified as class
            j.
        metrics: The results of the requested metrics, by name.
    """

    loss: float
    accuracy: float
    samples: int
    confusion: np.ndarray | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def evaluate(
    net: Layer,
    data: DataLike,
    *,
    loss: LossLike = "softmax",
    confusion: bool = False,
    tta: str = "none",
    batch_size: int = 256,
    normalization: Normalization | None = None,
    metrics: Sequence[MetricLike] | Mapping[str, MetricLike] = (),
    ranks: Ranks | None = None,
) -> Evaluation:
    """Run a net over every image of a data set, without training it.

    Args:
        net: Built.
        data: As in `Trainer.fit`; a Loader should neither augment images nor drop any.
        loss: A name or a function (`gpuconv.losses`).
        confusion: Whether to compute the confusion matrix.
        tta: The test-time augmentation; the scores of each image are averaged over its `views`.
        batch_size: Images of a batch, for data without batches.
        normalization: For uint8 images that no loader normalizes; by default that of the net's training.
        metrics: What to measure in addition to loss and accuracy, such as ["top-5", "per-class", my_function]
            (`gpuconv.metrics`).
        ranks: The ranks that share the batches. Each calls this function and gets the overall result.

    Raises:
        ValueError: There are no images, or the loss, a metric or `tta` does not fit the net or the data.
        TypeError: The data are of an unknown kind, or the normalization of uint8 images is unknown.
    """
    expect_built(net)
    criterion, tta = losses.get(loss), canonical("test-time augmentation", tta, TTA)
    losses.expect_net(criterion, net.output_shape or ())
    loader = fit_loaders.held_out("data", data, net, normalization, batch_size)
    chosen = metrics if isinstance(metrics, Mapping) else named(metrics)
    measured = begin(dict(chosen) | ({_CONFUSION: Confusion()} if confusion else {}))
    totals: Totals | None = None
    counting = [name for name, metric in measured.items() if isinstance(metric, (Confusion, TopK))]
    if counting and not losses.classifies(criterion):
        raise ValueError(f"{counting[0]} counts classes, and {losses.describe(criterion)} has a target for each score")
    for scores, labels in _scores_of_batches(net, loader.epoch(0), tta, ranks or Ranks()):
        totals = totals or Totals(backends.device_of(scores), criterion)
        totals.add(losses.apply(criterion, scores, labels)[0], scores, labels, criterion)
        if measured and (on_host := _for_metrics(scores, labels, losses.ignored_label(criterion))):
            for metric in measured.values():
                metric.update(*on_host)
    if totals is None:
        raise ValueError("there is nothing to evaluate: the loader gave no batch")
    sums = totals.read()
    results = {name: metric.result() for name, metric in measured.items()}
    matrix = results.pop(_CONFUSION, None)
    accuracy = sums.accuracy if losses.classifies(criterion) else math.nan
    return Evaluation(sums.loss, accuracy, int(sums.samples), matrix, results)


def _for_metrics(scores: Array, labels: Array, ignored: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The scores and labels for the metrics, on the host; None if all labels are ignored."""
    host_scores, host_labels = backends.to_numpy(scores), backends.to_numpy(labels)
    if ignored is None or host_labels.ndim > 1:
        return host_scores, host_labels
    kept = host_labels != ignored
    return (host_scores[kept], host_labels[kept]) if kept.any() else None


def _scores_of_batches(
    net: Layer, batches: Iterable[tuple[Array, Array]], tta: str, ranks: Ranks
) -> Iterator[tuple[Array, Array]]:
    """(scores, labels) of each batch, in order, on every rank. The ranks compute the batches in turn."""
    batches = iter(batches)
    while group := [*itertools.islice(batches, ranks.size)]:
        own = averaged_scores(net, group[ranks.rank][0], tta) if ranks.rank < len(group) else None
        for (_, labels), scores in zip(group, ranks.exchange(own, like=group[0][0])):
            yield scores, labels


def averaged_scores(net: Layer, x: Array, tta: str = "none") -> Array:
    """The mean of a net's scores over `views` of a batch. x: (N, H, W, C). Returns (N, classes)."""
    total: Any = None
    for weight, view in views(x, tta):
        scores = net.infer(view)
        scores = scores if weight == 1 else ops.scale(scores, factor=weight)
        total = scores if total is None else ops.add(total, scores)
    return total


def views(x: Array, tta: str) -> Iterator[tuple[float, Array]]:
    """(weight, view) for each view of a batch in a test-time augmentation: the batch itself, or a changed copy. The
    weights add up to 1.

    "mirror": the batch and its mirror image, each with weight 1/2. "shift": the batch (1/2), and the batch shifted by
    one pixel up and left (1/4) and down and right (1/4), with reflected borders. "mirror+shift": these three views,
    each also mirrored, with half the weights: the six views of airbench (Jordan 2024, arXiv:2404.00498).
    """
    expect_views(tta, x.shape[1:])
    moves = ((0.5, 0), (0.25, 1), (0.25, -1)) if "shift" in tta else ((1.0, 0),)
    for mirrored in (False, True) if "mirror" in tta else (False,):
        for share, move in moves:
            view = x if not (mirrored or move) else _shifted(x[:, :, ::-1] if mirrored else x, move)
            yield share * (0.5 if "mirror" in tta else 1.0), view


def expect_views(tta: str, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError for images (H, W, C) too small for the `views` of a test-time augmentation."""
    if "shift" in tta and min(image_shape[:2]) < 2:
        raise ValueError(f"tta {tta} needs images with sides of at least 2 pixels, received {image_shape}")


def _shifted(x: Array, move: int) -> Array:
    """A contiguous copy of x shifted down and right by `move` (-1, 0 or 1), with reflected borders."""
    rows, columns = (_reflected(size, move) for size in x.shape[1:3])
    moved = backends.zeros(x.shape, x.dtype, backends.device_of(x))
    for to_rows, from_rows in rows:
        for to_columns, from_columns in columns:
            moved[:, to_rows, to_columns] = x[:, from_rows, from_columns]
    return moved


def _reflected(size: int, move: int) -> list[tuple[slice, slice]]:
    """The (to, from) slices of one axis: a pair for the shifted values, and a pair for the value that the reflection
    fills in. If there is no shift, one pair for the whole axis."""
    if move == 0:
        return [(slice(None), slice(None))]
    if move > 0:
        return [(slice(1, None), slice(size - 1)), (slice(1), slice(1, 2))]
    return [(slice(size - 1), slice(1, None)), (slice(size - 1, None), slice(size - 2, size - 1))]
