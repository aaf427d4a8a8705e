"""Validation and test data: what is measured after each epoch, and what only once, at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gpuconv.layers.base import Layer
from gpuconv.parallel import Ranks
from gpuconv.training.evaluate import evaluate
from gpuconv.training.protocols import DataLike, LossLike, MetricLike
from gpuconv.types import Record


class HeldOut:
    """The held-out data of a run.

    metrics: metrics by name, see `gpuconv.metrics`. loaders: loaders by the name under which their results are
    recorded; None for data that is not given. at_end: the names of the loaders that are evaluated only once, at the end
    of the run. Raises ValueError for a metric named "loss" or "accuracy", and for metrics without a loader."""

    def __init__(
        self, metrics: Mapping[str, MetricLike], loaders: Mapping[str, DataLike | None], at_end: tuple[str, ...] = ()
    ) -> None:
        for name in ("loss", "accuracy"):
            if name in metrics:
                raise ValueError(f"a run records its own {name}; give the metric {name!r} another `name`")
        self.metrics = metrics
        self.loaders = {name: loader for name, loader in loaders.items() if loader is not None}
        if metrics and not self.loaders:
            raise ValueError(
                f"{', '.join(metrics)} is measured on validation or test data, and neither is given: "
                "fit(..., validation=0.1) splits validation data off the training data"
            )
        self.at_end = at_end

    def measure(self, net: Layer, loss: LossLike, end: bool = False, ranks: Ranks | None = None) -> Record:
        """The loss, accuracy and metrics of each set that is due, as "validation_loss" and so on. JSON-serializable.

        end: whether the sets of `at_end` are due instead of the others. ranks: the ranks that share the batches."""
        record: Record = {}
        for name, loader in self.loaders.items():
            if (name in self.at_end) == end:
                found = evaluate(net, loader, loss=loss, metrics=self.metrics, ranks=ranks)
                record |= {f"{name}_loss": found.loss, f"{name}_accuracy": _to_json(found.accuracy, "accuracy")}
                record |= {f"{name}_{metric}": _to_json(value, metric) for metric, value in found.metrics.items()}
        return record


def _to_json(value: object, metric: str) -> object:
    """A metric's result as JSON: a number or text, or lists or dicts of these, with None for numbers that are not
    finite. Raises TypeError for anything else."""
    if isinstance(value, dict):
        return {str(key): _to_json(each, metric) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(each, metric) for each in value]
    values = np.asarray(value)
    if values.ndim:
        return [_to_json(each, metric) for each in values]
    number = values.item()
    if not isinstance(number, (bool, int, float, str, type(None))):
        raise TypeError(
            f"the metric {metric} must give numbers, lists of them or a dict of them, which a run can store; "
            f"received {type(number).__name__}"
        )
    return number if not isinstance(number, float) or math.isfinite(number) else None
