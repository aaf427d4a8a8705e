"""Flat arrays that sum the results of a step's parts, and the buckets that ranks exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpuconv import backends, ops
from gpuconv.types import Array

# The smallest size, in bytes, of a bucket that ranks exchange while backward still runs; the last bucket of a dtype may
# be smaller.
BUCKET = 4 << 20


@dataclass(frozen=True)
class Term:
    """An array to be summed over the parts. weighted: whether each part is weighted by its share of the samples.
    gradient: whether it is the gradient of a loss, whose divisor may then determine the weight (`Sums.gather`)."""

    array: Array
    weighted: bool = True
    gradient: bool = False


class Bucket(NamedTuple):
    """The elements [first, end) of the array `Sums.flat[flat]`. terms: the numbers of the terms in them."""

    flat: int
    first: int
    end: int
    terms: tuple[int, ...]


class Sums:
    """One flat array for each dtype, with the values of that dtype's terms one after another."""

    def __init__(self, terms: Sequence[Term], device: str) -> None:
        self.flat: list[Array] = []
        self.starts: dict[int, int] = {}  # each term's position in its array
        self.buckets: list[Bucket] = []  # in the order in which backward completes them: the last terms first
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
        self.buckets.sort(key=lambda bucket: -min(bucket.terms))
        self.views = [views[number] for number in range(len(terms))]

    def gather(self, terms: Sequence[Term], bucket: Bucket, count: int, size: int, divisor: Array | None) -> None:
        """Store a part's terms in a bucket, weighted. count: the part's number of samples, out of `size`. divisor: what
        the part's loss divides by, if that is not `count`."""
        for number in bucket.terms:
            term, view = terms[number], self.views[number]
            if term.gradient and divisor is not None:
                ops.scale(term.array, factor=divisor, divisor=size, out=view)
            else:
                ops.scale(term.array, factor=count / size if term.weighted else 1.0, out=view)

    def divide(self, terms: Sequence[Term], size: int, divisor: Array) -> None:
        """Rescale the summed gradients, so that the loss of all parts is divided by `divisor` instead of `size`."""
        for term, view in zip(terms, self.views):
            if term.gradient:
                ops.scale(view, factor=size, divisor=divisor, out=view)

    def part(self, bucket: Bucket) -> Array:
        return self.flat[bucket.flat][bucket.first : bucket.end]

    def add(self, other: Sums, bucket: Bucket) -> None:
        own = self.part(bucket)
        ops.add(own, other.part(bucket), out=own)


def _cut(flat: int, numbers: Sequence[int], ends: Sequence[int], least: int) -> Iterator[Bucket]:
    """Cut an array into buckets, from its end. All but the last bucket have at least `least` elements."""
    last = len(numbers)
    for place in range(len(numbers) - 1, -1, -1):
        if not place or ends[last] - ends[place] >= least:
            yield Bucket(flat, ends[place], ends[last], tuple(numbers[place:last]))
            last = place
