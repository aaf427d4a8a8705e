"""Loss and accuracy, summed on the device and read back every so many steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpuconv import backends, losses, ops
from gpuconv.types import Array


class Reading(NamedTuple):
    """The sums: of losses times samples, of correct answers, of samples, and of steps with a finite loss."""

    loss_sum: float
    correct: float
    samples: float
    finite_steps: float

    @property
    def loss(self) -> float:
        """0 if no sample counted."""
        return self.loss_sum / self.samples if self.samples else 0.0

    @property
    def accuracy(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.samples if self.samples else float("nan")

    def since(self, earlier: Reading) -> Reading:
        """The difference from an earlier reading."""
        return Reading(*(now - then for now, then in zip(self, earlier)))


NOTHING = Reading(0.0, 0.0, 0.0, 0.0)


class Totals:
    """Running sums in one float64 array on a device; adding to them does not synchronize."""

    def __init__(self, device: str) -> None:
        self.array = backends.zeros((4,), np.float64, device)

    def add(self, loss: Array, scores: Array, labels: Array, criterion: object = None) -> None:
        """Add a batch. loss: its mean, 0-d. scores: (N, classes). labels: (N,) integers, or (N, classes) floats.
        Among equal scores, the first counts. criterion: the loss function, which may ignore a label or have no
        answers.

        The last sum counts the steps for which the sum of losses is finite, which identifies the first step whose loss
        was not.
        """
        compared = labels if losses.classifies(criterion) else None
        ops.add_metrics(self.array, loss, scores, compared, ignore_index=losses.ignored(criterion))

    def read(self) -> Reading:
        """The sums so far. Synchronizes."""
        return Reading(*map(float, backends.to_numpy(self.array)))

    def write(self, sums: Reading) -> None:
        """Restore sums from `read`."""
        backends.assign(self.array, np.array(sums, np.float64))

    def clear(self) -> None:
        self.write(NOTHING)
