"""Made-up times, so that code that measures on a GPU can run on the stand-in: each timed call runs once."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

SECONDS = 1e-3


class Timer:
    """Replaces `gpuconv.profiling.timer.CudaTimer`."""

    def __init__(self, device: str) -> None:
        self._marks = itertools.count()

    def burst(self, call, seconds: float) -> dict[str, list[float]]:
        call(0)
        return {"wall": [1.1 * SECONDS] * 3, "host": [SECONDS / 10] * 3, "cold": [SECONDS] * 3, "warm": [SECONDS] * 3}

    def hold(self, seconds: float) -> None:
        pass

    def mark(self) -> int:
        return next(self._marks)

    def seconds(self, marks: Sequence[int]) -> list[float]:
        return [SECONDS * (mark - marks[0]) for mark in marks]


def _ceilings() -> Iterator[tuple[str, str, float, Any]]:
    for name, amount in (("copy", 4e9), ("bfloat16", 7e11), ("float16", 7e11), ("tf32", 3e11), ("float32", 5e10)):
        yield name, "made up", amount, lambda _: None


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Within this context timers and ceilings of a GPU have made-up times."""
    from gpuconv.profiling import peaks, timer

    before = timer.CudaTimer, peaks._on_gpu
    timer.CudaTimer, peaks._on_gpu = Timer, _ceilings  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        timer.CudaTimer, peaks._on_gpu = before  # type: ignore[misc]
