"""The data that a run is judged on: what is measured after each epoch, and what once, at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuconv.training.evaluate import evaluate

Record = dict[str, Any]


class HeldOut:
    """metrics: `gpuconv.metrics` by name. loaders: by the name under which their results are recorded; None where there
    is none. at_end: the names of those that are looked at once, when the run is over."""

    def __init__(self, metrics: Mapping[str, Any], loaders: Mapping[str, Any], at_end: tuple[str, ...] = ()) -> None:
        self.metrics = metrics
        self.loaders = {name: loader for name, loader in loaders.items() if loader is not None}
        if metrics and not self.loaders:
            raise ValueError(
                f"{', '.join(metrics)} would be measured on validation or test data, and neither is given: "
                "fit(..., validation=0.1) takes a part of the training data"
            )
        self.at_end = at_end

    def measure(self, net: Any, loss: Any, end: bool = False) -> Record:
        """Loss, accuracy and metrics on each set that is due, "validation_loss" and so on. JSON-able."""
        record: Record = {}
        for name, loader in self.loaders.items():
            if (name in self.at_end) == end:
                found = evaluate(net, loader, loss=loss, metrics=self.metrics)
                record |= {f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy}
                record |= {f"{name}_{metric}": _plain(value) for metric, value in found.metrics.items()}
        return record


def _plain(value: Any) -> Any:
    """A number or lists of numbers; None for what is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    values = np.asarray(value)
    if values.ndim:
        return [_plain(each) for each in values]
    number = values.item()
    return number if not isinstance(number, float) or math.isfinite(number) else None
