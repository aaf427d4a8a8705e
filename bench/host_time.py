"""The Python time of repeated calls on a GPU, measured without a GPU.

The calls run on the stand-in for CuPy (tests/standin), whose launches, allocations and current device are made to take
almost no time. CuPy's own time for an attribute, an array or a launch is not included.

The budget of a call: FIRST microseconds for its first launch, FURTHER for each further launch, and ARRAY for each array
in a list.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.host_calls import calls

FIRST, FURTHER, ARRAY = 15.0, 5.0, 0.3  # microseconds


class Timing(NamedTuple):
    """Microseconds per call: the minimum and the median over the rounds."""

    op: str
    launches: int
    arrays: int
    least: float
    median: float

    @property
    def budget(self) -> float:
        return FIRST + FURTHER * (self.launches - 1) + ARRAY * self.arrays


def measure(rounds: int = 60, seconds: float = 0.003) -> Iterator[Timing]:
    """Each op's time in this process, in rounds of the given number of seconds."""
    with gpu() as launched:
        for op, (call, arrays) in calls().items():
            call()
            launched.clear()
            call()
            launches, count = len(launched), max(1, int(seconds / max(1e-6, _seconds(call, 3))))
            times = [1e6 * _seconds(call, count) for _ in range(rounds)]
            yield Timing(op, launches, arrays, min(times), statistics.median(times))


def _seconds(call: Callable[[], object], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - begin) / count


@contextmanager
def gpu() -> Iterator[list[str]]:
    """A stand-in GPU that records the names of launched kernels and runs nothing. "auto" is the cost model's choice,
    stored as if it had been measured."""
    from gpuconv.backends.cuda.gemm import tuner
    from tests import standin
    from tests.standin.modules import RawKernel

    launched: list[str] = []

    def stored_plan(product, *options):
        tuner.known_choices[product, tuner.gpu_named("cuda:0")] = chosen = plan(product, *options)
        return chosen

    launch, plan, tuning = RawKernel.__call__, tuner.plan, os.environ.get("GPUCONV_AUTOTUNE")
    os.environ["GPUCONV_AUTOTUNE"] = "0"

    def record(self, grid, block, arguments, shared_mem: int) -> None:
        launched.append(self.name)

    with standin.installed(schedule="early"):
        cupy = sys.modules["cupy"]
        cupy.empty = functools.cache(cupy.empty)  # one array per shape and dtype, which nothing reads
        cupy.cuda.runtime.getDevice = itertools.repeat(0).__next__
        RawKernel.__call__ = record  # type: ignore[method-assign]
        tuner.plan = stored_plan  # type: ignore[assignment]
        try:
            yield launched
        finally:
            RawKernel.__call__, tuner.plan = launch, plan  # type: ignore[method-assign, assignment]
            tuner.known_choices.clear()
            os.environ.pop("GPUCONV_AUTOTUNE")
            if tuning is not None:
                os.environ["GPUCONV_AUTOTUNE"] = tuning


def table(timings: Iterable[Timing]) -> Iterator[str]:
    """Lines for a terminal."""
    yield f"{'op':<26} {'launches':>8} {'arrays':>6} {'least us':>9} {'median us':>9} {'budget us':>9}"
    for timing in timings:
        met = "" if timing.least <= timing.budget else "  over"
        yield (
            f"{timing.op:<26} {timing.launches:>8} {timing.arrays:>6} {timing.least:>9.1f} {timing.median:>9.1f} "
            f"{timing.budget:>9.1f}{met}"
        )
