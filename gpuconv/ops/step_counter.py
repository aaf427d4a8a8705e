"""Counters that change from step to step. They live on the device, so that a captured step can read them."""

from __future__ import annotations

import numpy as np

from gpuconv.arguments import integer
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_disjoint, expect_writable
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT

__all__ = ["advance_clock", "advance_counter", "advance_step_counter"]


@op("step_counter.cu", changes="counters lr")
def advance_step_counter(counters: Array, lr: Array, rates: Array, *, batch_size: int) -> None:
    """Advance to the next training step: lr = rates[counters[0]], then counters += (1, 1, batch_size, batch_size).

    Args:
        counters: (4,) int64, changed in place: [0] the row of rates, [1] the steps done, [2] where the next batch
            begins in the epoch's order, [3] its offset in the stream of random numbers.
        lr: (L,) float32 or float64, changed in place. After the last row of rates it becomes NaN.
        rates: (T, L), of lr's dtype: a row of learning rates for each step.
        batch_size: The number of samples in the step, at least 0.

    Raises:
        TypeError: An array has another dtype, or counters another shape.
        ValueError: lr and rates have shapes that do not fit, batch_size is negative, or counters and lr overlap or
            one of them is read-only.
    """
    backend = backend_of(counters=counters, lr=lr, rates=rates)
    _expect_counters("counters", counters, 4)
    if lr.dtype not in (np.float32, np.float64) or rates.dtype != lr.dtype:
        raise TypeError(
            f"lr and rates must both be float32 or both float64, received {lr.dtype.name} and {rates.dtype.name}"
        )
    if len(lr.shape) != 1 or tuple(rates.shape[1:]) != tuple(lr.shape):
        raise ValueError(f"rates must be rows like lr, (T, L) and (L,), received {rates.shape} and {lr.shape}")
    batch_size = integer("batch_size", batch_size, 0)
    expect_writable(counters=counters, lr=lr)
    expect_disjoint(counters=counters, lr=lr)
    (rates,) = copy_if_overlapping([counters, lr], rates)
    backend.step_counter.advance_step_counter(counters, lr, rates, batch_size=batch_size)


@op("step_counter.cu", changes="counter")
def advance_counter(counter: ArrayT, *, by: int) -> ArrayT:
    """counter += by.

    Args:
        counter: (1,) int64, changed in place.
        by: An integer, at least 0.

    Returns:
        A copy of its old value.

    Raises:
        TypeError: counter has another dtype or shape.
        ValueError: counter is read-only, or by is negative.
    """
    backend = backend_of(counter=counter)
    _expect_counters("counter", counter, 1)
    by = integer("by", by, 0)
    expect_writable(counter=counter)
    return backend.step_counter.advance_counter(counter, by=by)


def advance_clock(clock: Array, lr: Array, rates: Array, *, batch_size: int) -> None:
    """The former name of `advance_step_counter`."""
    advance_step_counter(clock, lr, rates, batch_size=batch_size)


def _expect_counters(name: str, array: Array, length: int) -> None:
    if array.dtype != np.int64 or tuple(array.shape) != (length,):
        raise TypeError(f"{name} must be int64 of shape ({length},), received {array.dtype.name} {tuple(array.shape)}")
