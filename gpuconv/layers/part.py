"""The part of a batch that the layers are given: some layers count the elements of the whole batch, or sum over its
parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from gpuconv.types import Array

__all__ = ["Part", "part_of_batch", "place_of", "share_of", "summed_over_parts", "sums_over_parts"]


class Part(NamedTuple):
    """Samples `first` on of a batch of `batch`. last: whether this net is given no later part of the batch."""

    first: int
    batch: int
    last: bool = True


Sum = Callable[[Array], None]  # replaces an array of rank 1 by the sum of those of all parts

_sum: ContextVar[Sum | None] = ContextVar("a sum over the parts of a batch", default=None)
_given: ContextVar[Part | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(part: Part) -> Iterator[None]:
    """Within this context, layers are given that part of a batch."""
    token = _given.set(part)
    try:
        yield
    finally:
        _given.reset(token)


def place_of(x: Array) -> Part:
    """The same in elements: x is that part of an array, which holds the activations of the whole batch."""
    part = _given.get()
    if part is None:
        return Part(0, x.size)
    each = x.size // x.shape[0]
    return Part(part.first * each, part.batch * each, part.last)


def share_of(x: Array) -> float:
    """The share of the batch's samples that x has."""
    part = _given.get()
    return 1.0 if part is None else len(x) / part.batch


@contextmanager
def summed_over_parts(total: Sum) -> Iterator[None]:
    """Within this context, batch norm takes the statistics of the whole batch, of which each rank has one part."""
    token = _sum.set(total)
    try:
        yield
    finally:
        _sum.reset(token)


def sums_over_parts() -> Sum | None:
    """The sum over the parts of a batch, if batch norm is to take it."""
    return _sum.get()
