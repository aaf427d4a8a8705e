"""Adds an algorithm, such as one that no GPU has run, to the table of algorithms during a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from gpuconv import algorithms
from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.gemm import plan


@contextlib.contextmanager
def with_algorithm(algorithm: Algorithm, **changed) -> Iterator[Algorithm]:
    """Within this context the table also has a copy of this algorithm. changed: the fields that differ in the copy."""
    before, new = algorithms.ALGORITHMS, replace(algorithm, **changed)
    algorithms.ALGORITHMS = (*before, new)
    _forget()
    try:
        yield new
    finally:
        algorithms.ALGORITHMS = before
        _forget()


def _forget() -> None:
    for cached in (algorithms.serving, algorithms.find, plan.plan, plan.candidates, plan.unproved_plans):
        cached.cache_clear()
