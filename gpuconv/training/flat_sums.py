"""Flat arrays that sum the results of a step's parts, and the buckets that ranks exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpuconv import backends, ops
from gpuconv.types import Array

BUCKET = 4 << 20  # the fewest bytes that are exchanged before backward ends


@dataclass(frozen=True)
class Term:
    """An array to be summed over the parts. weighted: whether by the part's share of the samples. gradient: whether it
    is the gradient of a loss, which may have another share."""

    array: Array
    weighted: bool = True
    gradient: bool = False


class Bucket(NamedTuple):
    """Elements `first` to `end` of a flat array, and the numbers of the terms that they hold."""

    flat: int
    first: int
    end: int
    terms: tuple[int, ...]


class Sums:
    """One flat array for each dtype; it holds the terms' values one after another."""

    def __init__(self, terms: Sequence[Term], device: str) -> None:
        self.flat: list[Array] = []
        self.starts: dict[int, int] = {}  # each term's position in its array
        self.buckets: list[Bucket] = []  # in the order in which backward computes them: the last terms first
        views: dict[int, Array] = {}
        for dtype in dict.fromkeys(term.array.dtype for term in terms):
            numbers = [number for number, term in enumerate(terms) if term.array.dtype == dtype]
            ends = np.cumsum([0, *(terms[number].array.size for number in numbers)]).tolist()
            flat = backends.zeros((ends[-1],), dtype, device)
            for number, first, end in zip(numbers, ends, ends[1:]):
                self.starts[number] = first
                views[number] = flat[first:end].reshape(terms[number].array.shape)
            self.buckets += _cut(len(self.flat), numbers, ends, BUCKET // dtype.itemsize)
            self.flat.append(flat)
        self.buckets.sort(key=lambda bucket: -max(bucket.terms))
        self.views = [views[number] for number in range(len(terms))]

    def gather(self, terms: Sequence[Term], bucket: Bucket, part: int, size: int, divisor: Array | None) -> None:
        """Store the scaled terms of a part. part: its number of samples, out of `size`. divisor: what its loss divides
        by, if that is not `part`."""
        for number in bucket.terms:
            term, view = terms[number], self.views[number]
            if term.gradient and divisor is not None:
                ops.scale(term.array, factor=divisor, divisor=size, out=view)
            else:
                ops.scale(term.array, factor=part / size if term.weighted else 1.0, out=view)

    def divide(self, terms: Sequence[Term], size: int, divisor: Array) -> None:
        """Rescale the sums of gradients to a loss with this divisor."""
        for term, view in zip(terms, self.views):
            if term.gradient:
                ops.scale(view, factor=size, divisor=divisor, out=view)

    def part(self, bucket: Bucket) -> Array:
        return self.flat[bucket.flat][bucket.first : bucket.end]

    def add(self, other: Sums, bucket: Bucket) -> None:
        own = self.part(bucket)
        ops.add(own, other.part(bucket), out=own)


def _cut(flat: int, numbers: Sequence[int], ends: Sequence[int], least: int) -> Iterator[Bucket]:
    """The buckets of an array, from its end: each except the last one has at least `least` elements."""
    last = len(numbers)
    for place in range(len(numbers) - 1, -1, -1):
        if not place or ends[last] - ends[place] >= least:
            yield Bucket(flat, ends[place], ends[last], tuple(numbers[place:last]))
            last = place
