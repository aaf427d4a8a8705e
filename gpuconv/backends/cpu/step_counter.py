"""The numbers that change from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["advance_clock", "advance_counter"]


def advance_clock(clock, lr, rates, *, batch_size):
    lr[...] = rates[clock[0]] if 0 <= clock[0] < len(rates) else np.nan
    clock += (1, 1, batch_size, batch_size)


def advance_counter(counter, *, by):
    before = counter.copy()
    counter += by
    return before


def value(scalar: Any) -> Any:
    """A number, out of its one-element array where it comes in one."""
    return scalar.item() if isinstance(scalar, np.ndarray) else scalar
