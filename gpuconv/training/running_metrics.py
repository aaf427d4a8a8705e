"""Loss and accuracy, which are summed on the device and read back only once in several steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpuconv import backends, losses, ops
from gpuconv.types import Array


class Reading(NamedTuple):
    """Sums over batches; samples whose label the loss ignores do not count. loss_sum: the sum of each batch's mean loss
    times its number of samples; with class weights, times the sum of its labels' weights. correct: the number of right
    answers. samples: the number of samples. finite_steps: the number of steps with a finite loss. weights: the sum of
    the labels' weights; None without class weights."""

    loss_sum: float
    correct: float
    samples: float
    finite_steps: float
    weights: float | None = None

    @property
    def loss(self) -> float:
        """The mean loss; 0 if no sample counted."""
        divisor = self.samples if self.weights is None else self.weights
        return self.loss_sum / divisor if divisor else 0.0

    @property
    def accuracy(self) -> float:
        """Between 0 and 1; NaN if no sample counted."""
        return self.correct / self.samples if self.samples else float("nan")

    def since(self, earlier: Reading) -> Reading:
        """The difference from an earlier reading."""
        return Reading(*(now - (then or 0.0) for now, then in zip(self.numbers(), earlier)))

    def numbers(self) -> list[float]:
        """The sums that are present."""
        return [each for each in self if each is not None]


NOTHING = Reading(0.0, 0.0, 0.0, 0.0)


class Totals:
    """Running sums in one float64 array on a device; adding to them does not synchronize. criterion: the loss function,
    which may have class weights."""

    def __init__(self, device: str, criterion: object = None) -> None:
        self.weighted, self.ignores = losses.is_weighted(criterion), losses.ignored_label(criterion) is not None
        self.array = backends.zeros((5 if self.weighted else 4,), np.float64, device)

    def divisor_in(self, sums: Array) -> Array | None:
        """The divisor of the loss, as a view of one number in `sums`, if it depends on the labels; else None."""
        return sums[4:5] if self.weighted else sums[2:3] if self.ignores else None

    def add(self, loss: Array, scores: Array, labels: Array, criterion: object = None) -> None:
        """Add a batch. loss: its mean loss, 0-d. scores: (N, classes); of equal scores, the first one is the answer.
        labels: (N,) integers, or (N, classes) floats. criterion: the loss function; it may ignore a label. If it does
        not classify, no answer counts as right.

        A step counts as finite if the sum of losses is still finite after it. So the count tells the first step whose
        loss is not finite.
        """
        compared = labels if losses.classifies(criterion) else None
        weight = losses.class_weights(criterion, scores, labels) if self.weighted else None
        ops.add_metrics(self.array, loss, scores, compared, weight, ignore_index=losses.ignored_label(criterion))

    def stored(self, numbers: Sequence[float]) -> Reading:
        """The sums from a checkpoint's numbers. Older versions stored no sum of weights, and took the mean over
        samples.

        Raises ValueError for another number of sums.
        """
        complete = [*numbers, numbers[2]] if self.weighted and len(numbers) == len(NOTHING.numbers()) else numbers
        if len(complete) != len(self.array):
            raise ValueError(f"the sums of this loss are {len(self.array)} numbers, received {len(numbers)}")
        return Reading(*complete)

    def read(self) -> Reading:
        """The sums so far. Synchronizes."""
        return Reading(*map(float, backends.to_numpy(self.array)))

    def write(self, sums: Reading) -> None:
        """Restore sums from `read`."""
        backends.assign(self.array, np.array(sums.numbers(), np.float64))

    def clear(self) -> None:
        backends.assign(self.array, 0.0)
