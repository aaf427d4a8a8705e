"""Loss and accuracy, summed on the device and read back now and then."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpuconv import backends, ops
from gpuconv.types import Array


class Reading(NamedTuple):
    """Sums that were read back: of losses times samples, of right answers, of samples, of steps with a finite loss."""

    loss_sum: float
    correct: float
    samples: float
    finite_steps: float

    @property
    def loss(self) -> float:
        return self.loss_sum / self.samples if self.samples else float("nan")

    @property
    def accuracy(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.samples if self.samples else float("nan")

    def since(self, earlier: Reading) -> Reading:
        """What was added after an earlier reading."""
        return Reading(*(now - then for now, then in zip(self, earlier)))


NOTHING = Reading(0.0, 0.0, 0.0, 0.0)


class Totals:
    """Running sums in one float64 array on a device; adding to them never waits for it."""

    def __init__(self, device: str) -> None:
        self.array = backends.zeros((4,), np.float64, device)

    def add(self, loss: Array, scores: Array, labels: Array) -> None:
        """Count a batch. loss: its mean, 0-d. scores: (N, classes). labels: (N,). The first of equal scores is chosen.

        The last sum counts the steps after which the sum of losses is still finite, so the step whose loss was the
        first that is not can be named later.
        """
        ops.add_metrics(self.array, loss, scores, labels)

    def read(self) -> Reading:
        """Wait for the device and return the sums so far."""
        return Reading(*map(float, backends.to_numpy(self.array)))

    def write(self, sums: Reading) -> None:
        """Go on from sums that were read before."""
        backends.assign(self.array, np.array(sums, np.float64))

    def clear(self) -> None:
        self.write(NOTHING)
