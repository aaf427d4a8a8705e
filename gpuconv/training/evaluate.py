"""Evaluation of a net on images: loss, accuracy, and which classes it confuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends, losses
from gpuconv.arguments import flag
from gpuconv.data import Normalization
from gpuconv.layers import Layer
from gpuconv.layers.base import expect_built
from gpuconv.metrics import Confusion, TopK, begin, named
from gpuconv.names import canonical
from gpuconv.parallel import Ranks
from gpuconv.profiling.timer import current_device
from gpuconv.training import fit_loaders
from gpuconv.training.running_metrics import Totals
from gpuconv.training.tta import TTA, averaged_scores
from gpuconv.types import Array, Record

if TYPE_CHECKING:
    from gpuconv.training.protocols import DataLike, LossLike, MetricLike

_CONFUSION = "confusion=True"


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Args:
        loss: The mean loss over the images that count, weighted if the loss has class weights; 0 if no image counts.
        accuracy: Between 0 and 1; NaN if no image counts, or if the loss takes a target for each score, so that there
            is no right class.
        samples: The number of images that count: those whose label the loss does not ignore.
        confusion: int64 (classes, classes) or None; [i, j] counts the images of class i that were classified as class
            j.
        metrics: The results of the requested metrics, by name.
    """

    loss: float
    accuracy: float
    samples: int
    confusion: np.ndarray | None = None
    metrics: Record = field(default_factory=dict)


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
        loss: A name, a short form, such as "softmax:label_smoothing=0.1", or a function (`gpuconv.losses`).
        confusion: Whether to compute the confusion matrix.
        tta: The test-time augmentation; the scores of each image are averaged over its `views`.
        batch_size: Images of a batch, for data without batches.
        normalization: For uint8 images that no loader normalizes; by default that of the net's training.
        metrics: What to measure in addition to loss and accuracy, such as ["top-5", "per-class", my_function], or a
            mapping that names the results, {"best five": "top-5"} (`gpuconv.metrics`).
        ranks: The ranks that share the batches. Each calls this function and gets the overall result.

    Raises:
        ValueError: There are no images, they do not fit the net, or the loss, a metric or `tta` does not fit the net or
            the data.
        TypeError: The data are of an unknown kind, the normalization of uint8 images is unknown, or an argument has
            another type.
        RuntimeError: The net is not built or has no weights.
        ParallelError: Another rank failed or does not answer.
    """
    expect_built(net)
    confusion = flag("confusion", confusion)
    if ranks is not None and not isinstance(ranks, Ranks):
        raise TypeError(f"ranks is a gpuconv.parallel.Ranks, received {type(ranks).__name__}")
    criterion, tta = losses.get(loss), canonical("test-time augmentation", tta, TTA)
    losses.expect_net(criterion, net.output_shape or ())
    loader = fit_loaders.held_out("data", data, net, normalization, batch_size, criterion)
    measured = begin(named(metrics) | ({_CONFUSION: Confusion()} if confusion else {}))
    totals: Totals | None = None
    counting = [name for name, metric in measured.items() if isinstance(metric, (Confusion, TopK))]
    if counting and not losses.classifies(criterion):
        raise ValueError(f"{counting[0]} counts classes, and {losses.describe(criterion)} has a target for each score")
    with current_device(net.device):  # a user's loss and layers may call CuPy
        for scores, labels in _scores_of_batches(net, loader.epoch(0), tta, ranks or Ranks()):
            totals = totals or Totals(backends.device_of(scores), criterion)
            totals.add(losses.apply(criterion, scores, labels)[0], scores, labels, criterion)
            if measured and (on_host := _for_metrics(scores, labels, losses.ignored_label(criterion))):
                for metric in measured.values():
                    metric.update(*(array.copy() for array in on_host))  # a user's metric may work in place
    if totals is None:
        raise ValueError("there is nothing to evaluate: the loader gave no batch")
    sums = totals.read()
    results: Record = {name: metric.result() for name, metric in measured.items()}
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
    """(scores, labels) of each batch, in order, on every rank. Batch i is computed by rank i % ranks.size."""
    batches = iter(batches)
    while group := [*itertools.islice(batches, ranks.size)]:
        own = averaged_scores(net, group[ranks.rank][0], tta) if ranks.rank < len(group) else None
        for (_, labels), scores in zip(group, ranks.exchange(own, like=group[0][0])):
            yield scores, labels
