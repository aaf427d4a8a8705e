"""The current speed of a run."""

from __future__ import annotations

import time


class Speed:
    """Training images per second, measured over at least half a second."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self.begin(0)

    def begin(self, steps: int) -> None:
        """Begin to measure, after `steps` steps."""
        self._since = time.perf_counter(), steps

    def at(self, steps: int, images_per_step: int) -> float:
        """The speed now, after `steps` steps of `images_per_step` images each."""
        now, (since, before) = time.perf_counter(), self._since
        if now - since > 0.5:
            self.per_second = (steps - before) * images_per_step / (now - since)
            self.begin(steps)
        return self.per_second
