"""How fast a run is at the moment."""

from __future__ import annotations

import time


class Speed:
    """Training images a second, over half a second or more."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self.begin(0)

    def begin(self, steps: int) -> None:
        self._since = time.perf_counter(), steps

    def at(self, steps: int, batch_size: int) -> float:
        """Now, after so many steps."""
        now, (since, before) = time.perf_counter(), self._since
        if now - since > 0.5:
            self.per_second = (steps - before) * batch_size / (now - since)
            self.begin(steps)
        return self.per_second
