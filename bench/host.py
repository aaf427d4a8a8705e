"""The Python time of repeated calls on a GPU, measured without one: on the stand-in for CuPy (tests/standin), whose
launches are made to take no time. What CuPy itself takes for an attribute or a launch is not in it.

A call of an op may take BUDGET: so many microseconds for its first launch, each further launch, and each array of a
list.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

FIRST, FURTHER, ARRAY = 15.0, 5.0, 0.3  # microseconds


class Timing(NamedTuple):
    """Microseconds of a call: the least and the median of the rounds."""

    op: str
    launches: int
    arrays: int
    least: float
    median: float

    @property
    def budget(self) -> float:
        return FIRST + FURTHER * (self.launches - 1) + ARRAY * self.arrays


def measure(rounds: int = 7, seconds: float = 0.02) -> Iterator[Timing]:
    """Each op's time in this process, in rounds of so many seconds."""
    with _gpu() as launched:
        for op, (call, arrays) in _calls().items():
            call()
            launched.clear()
            call()
            launches, count = len(launched), max(1, int(seconds / max(1e-6, _seconds(call, 3))))
            times = [1e6 * _seconds(call, count) for _ in range(rounds)]
            yield Timing(op, launches, arrays, min(times), statistics.median(times))


def _seconds(call: Callable[[], Any], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - begin) / count


@contextmanager
def _gpu() -> Iterator[list[str]]:
    """A stand-in GPU. The names of launched kernels are noted; nothing runs, and "auto" is the cost model's choice."""
    from tests import standin
    from tests.standin.modules import RawKernel

    launched: list[str] = []
    launch, tuning = RawKernel.__call__, os.environ.get("GPUCONV_AUTOTUNE")
    os.environ["GPUCONV_AUTOTUNE"] = "0"
    with standin.installed(schedule="early"):
        RawKernel.__call__ = lambda self, *_, **__: launched.append(self.name)  # type: ignore[method-assign]
        try:
            yield launched
        finally:
            RawKernel.__call__ = launch  # type: ignore[method-assign]
            os.environ.pop("GPUCONV_AUTOTUNE")
            if tuning is not None:
                os.environ["GPUCONV_AUTOTUNE"] = tuning


def _calls() -> dict[str, tuple[Callable[[], Any], int]]:
    """A call of each kind of op into arrays that are there already, and how many arrays its lists hold."""
    import gpuconv as gc
    from gpuconv import ops

    def array(*shape: int) -> Any:
        return gc.asarray(np.ones(shape, np.float32), "cuda")

    x, w, bias, y = array(1, 8, 8, 4), array(8, 3, 3, 4), array(8), array(1, 8, 8, 8)
    dx, dw, db, scores = array(1, 8, 8, 4), array(8, 3, 3, 4), array(8), array(4, 10)
    pooled, labels = array(1, 4, 4, 4), gc.asarray(np.zeros(4, np.int64), "cuda")
    params, grads, velocities = ([array(16) for _ in range(62)] for _ in range(3))
    return {
        "relu": (lambda: ops.relu(x, out=dx), 0),
        "conv2d": (lambda: ops.conv2d(x, w, bias, padding=1, out=y), 0),
        "conv2d_dgrad": (lambda: ops.conv2d_dgrad(y, w, input_shape=(1, 8, 8, 4), padding=1, out=dx), 0),
        "conv2d_wgrad": (lambda: ops.conv2d_wgrad(y, x, kernel_size=3, padding=1, out=dw, db=db), 0),
        "conv2d_backward": (lambda: ops.conv2d_backward(y, x, w, padding=1, out=dx, dw=dw, db=db), 0),
        "max_pool2d": (lambda: ops.max_pool2d(x, kernel_size=2, out=pooled), 0),
        "batch_norm": (lambda: ops.batch_norm(y, bias, bias, db, db, training=False, out=y), 0),
        "softmax_cross_entropy": (lambda: ops.softmax_cross_entropy(scores, labels, out=scores), 0),
        "sgd_step, 62 parameters": (lambda: ops.sgd_step(params, grads, velocities, lr=0.1, momentum=0.9), 186),
    }


def table(timings: Iterable[Timing]) -> Iterator[str]:
    """Lines for a terminal."""
    yield f"{'op':<26} {'launches':>8} {'arrays':>6} {'least us':>9} {'median us':>9} {'budget us':>9}"
    for timing in timings:
        met = "" if timing.least <= timing.budget else "  over"
        yield (
            f"{timing.op:<26} {timing.launches:>8} {timing.arrays:>6} {timing.least:>9.1f} {timing.median:>9.1f} "
            f"{timing.budget:>9.1f}{met}"
        )
