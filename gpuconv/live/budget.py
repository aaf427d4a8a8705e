"""Limits the cost of displaying a run: each kind of display has a share of the run's time, and waits until it is within
that share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Look(NamedTuple):
    """The limits of a kind of display. every: the fewest seconds between two of them. share: the fraction of the run's
    time that they may take."""

    every: float
    share: float


LOOKS = {
    "state": Look(0.1, 0.005),
    "curves": Look(0.2, 0.005),
    "picture": Look(0.1, 0.01),
    "scales": Look(0.5, 0.005),
    "examples": Look(1.0, 0.01),
    "map": Look(0.2, 0.005),
}  # 4 % in total; with the checks for what is due, displays stay within 5 % of the run's time


class Budget:
    """Decides which displays are due. clock: seconds, as `time.perf_counter`."""

    def __init__(self, looks: dict[str, Look] = LOOKS, clock: Callable[[], float] = time.perf_counter) -> None:
        self.looks, self.clock = looks, clock
        self._next = dict.fromkeys(looks, -float("inf"))

    def due(self, name: str) -> bool:
        return self.clock() >= self._next[name]

    @property
    def any_due(self) -> bool:
        return self.clock() >= min(self._next.values())

    def make_due(self, *names: str) -> None:
        """Make these, or all, due at once, because something changed that the user is waiting for."""
        self._next.update(dict.fromkeys(names or self._next, -float("inf")))

    @contextlib.contextmanager
    def spend(self, name: str) -> Iterator[None]:
        """A context around a display; the next one is due once the cost of this one is within its share.

        Displays are a little late, at the end of a step; the wait for the next one counts from the time when this one
        was due."""
        start = self.clock()
        try:
            yield
        finally:
            look, cost = self.looks[name], self.clock() - start
            after = self._next[name] + look.every
            self._next[name] = max(after if after > start else start + look.every, start + cost / look.share)
