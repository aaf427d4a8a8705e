"""The data that a run is judged on: what is measured after each epoch, and what once, at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuconv.training.evaluate import evaluate

Record = dict[str, Any]


class HeldOut:
    """loaders: by the name under which their results are recorded; None where there is none. at_end: the names of those
    that are looked at once, when the run is over."""

    def __init__(self, loaders: Mapping[str, Any], at_end: tuple[str, ...] = ()) -> None:
        self.loaders = {name: loader for name, loader in loaders.items() if loader is not None}
        self.at_end = at_end

    def measure(self, net: Any, loss: Any, end: bool = False) -> Record:
        """Loss and accuracy on each set that is due, "validation_loss" and so on."""
        record: Record = {}
        for name, loader in self.loaders.items():
            if (name in self.at_end) == end:
                found = evaluate(net, loader, loss=loss)
                record |= {f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy}
        return record
