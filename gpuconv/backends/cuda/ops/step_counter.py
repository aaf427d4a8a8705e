"""Advances the counters and the learning rate, which change from step to step: launchers of kernels/step_counter.cu."""

from __future__ import annotations

from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.types import Array, ArrayT


def advance_step_counter(counters: Array, lr: Array, rates: Array, *, batch_size: int) -> None:
    module = load("step_counter.cu", {"DTYPE": lr.dtype})
    module.kernel("step_counter_advance")(1, WARP, counters, lr, rates, *rates.shape, batch_size)


def advance_counter(counter: ArrayT, *, by: int) -> ArrayT:
    before = empty((1,), counter.dtype, like=counter)
    load("step_counter.cu", {"DTYPE": "float32"}).kernel("counter_advance")(1, 1, before, counter, by)
    return before
