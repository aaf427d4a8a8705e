"""Which part of a batch the layers are given, for layers whose random numbers count the elements of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from gpuconv.types import Array

__all__ = ["Part", "part_of_batch", "place_of"]


class Part(NamedTuple):
    """Samples `first` on of a batch of `batch`. last: whether this net is given no later part of the batch."""

    first: int
    batch: int
    last: bool = True


_given: ContextVar[Part | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(part: Part) -> Iterator[None]:
    """Within it, layers are given that part of a batch."""
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
