"""The numbers that change from step to step. They are in device memory, so that captured steps can read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from gpuconv import backends, ops
from gpuconv.training.optimizers.base import Optimizer

Rates = list[float]  # the learning rates of one step: one for each optimizer of a `Groups`, one for any other optimizer

AHEAD = 64  # number of steps whose learning rates are written to the device at once


class StepCounter:
    """The position in the epoch, the step number and the learning rates. The optimizer reads its rates and step number
    from here.

    The host calls `write` at least once in AHEAD steps; `advance` runs on the device in each step
    (`ops.advance_step_counter`). `planned` holds the rates that `write` has written for the steps still to come.
    """

    def __init__(self, optimizer: Optimizer, device: str) -> None:
        width = len(optimizer.rates(optimizer.lr))
        self._counters = backends.zeros((4,), np.int64, device)
        self._lr = backends.zeros((width,), optimizer.rate_dtype, device)
        self._rates = backends.zeros((AHEAD, width), optimizer.rate_dtype, device)
        self.start, self.offset = self._counters[2:3], self._counters[3:4]
        self.planned: deque[Rates] = deque()
        optimizer.follow(self._lr, self._counters[1:2])

    def write(self, steps: int, start: int, offset: int, rates: Sequence[Rates]) -> None:
        """Set all numbers. steps: the number of steps done in total. start, offset: those of the next batch, as in
        `ops.load_batch`. rates: those of the next steps, at most AHEAD of them."""
        table = np.full(self._rates.shape, np.nan, self._rates.dtype)
        table[: len(rates)] = rates
        backends.assign(self._counters, np.array([0, steps, start, offset]))  # 0: the next row of rates
        backends.assign(self._rates, table)
        self.planned = deque(rates)

    def advance(self, batch_size: int) -> None:
        """Advance to the next step; only device work."""
        ops.advance_step_counter(self._counters, self._lr, self._rates, batch_size=batch_size)
