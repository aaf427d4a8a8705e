"""Limits the cost of displaying a run: each kind of display has a share of the run's time, and waits until it is within
that share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Limits(NamedTuple):
    """The limits of a kind of display. every: after a display was due, the next is due at least so many seconds later.
    share: the fraction of the run's time that displays of this kind may take."""

    every: float
    share: float


LIMITS = {
    "state": Limits(0.1, 0.005),
    "curves": Limits(0.2, 0.005),
    "picture": Limits(0.1, 0.01),
    "scales": Limits(0.5, 0.005),
    "examples": Limits(1.0, 0.01),
    "map": Limits(0.2, 0.005),
}  # 4 % in total; with the checks for what is due, displays stay within 5 % of the run's time


class Budget:
    """Decides which displays are due. timer: returns seconds, as `time.perf_counter` does."""

    def __init__(self, limits: dict[str, Limits] = LIMITS, timer: Callable[[], float] = time.perf_counter) -> None:
        self.limits, self.timer = limits, timer
        self._next = dict.fromkeys(limits, -float("inf"))  # when each is due next; each is due from the start

    def due(self, name: str) -> bool:
        return self.timer() >= self._next[name]

    @property
    def any_due(self) -> bool:
        return self.timer() >= min(self._next.values())

    def make_due(self, *names: str) -> None:
        """Make the displays with these names due at once, because the user is waiting for a change. Without names, all
        become due."""
        self._next.update(dict.fromkeys(names or self._next, -float("inf")))

    @contextlib.contextmanager
    def spend(self, name: str) -> Iterator[None]:
        """A context around a display. The next one of this kind is due once the cost of this one is within the share.

        A display is made at the end of a step, and so a little late. The wait for the next one counts from the time
        when this one was due."""
        start = self.timer()
        try:
            yield
        finally:
            limits, cost = self.limits[name], self.timer() - start
            due = self._next[name] + limits.every
            if due <= start:  # this display was very late, or was due at once
                due = start + limits.every
            self._next[name] = max(due, start + cost / limits.share)
