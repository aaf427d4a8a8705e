"""A sum over ranks along a binary tree, by Rabenseifner's algorithm, and an all-gather of an array's sections, which
lie in the order of the ranks. The caller moves the bytes between the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from gpuconv import backends, ops
from gpuconv.types import Array


class Swap(Protocol):
    """A function that sends the array `give` to a partner and receives into the array `into` from it; either may be
    None."""

    def __call__(self, partner: int, *, give: Array | None = None, into: Array | None = None) -> None: ...


class Exchange(NamedTuple):
    """An exchange between a rank and its partner: `give` is sent, `into` is received; either may be None."""

    partner: int
    give: Array | None = None
    into: Array | None = None


def sum_along_tree(flat: Array, rank: int, size: int, swap: Swap) -> None:
    """Replace an array of one axis by the sum over all ranks, as `tree` does."""
    for partner, give, into in tree(flat, rank, size):
        swap(partner, give=give, into=into)


def tree(flat: Array, rank: int, size: int) -> Iterator[Exchange]:
    """Yield the exchanges that replace an array of one axis by the sum over all ranks. The caller completes each
    exchange before it requests the next one.

    Ranks at distance 1, 2, 4, ... exchange halves and add them, then return the sums the same way. Each of R ranks, R a
    power of two, sends 2 (R - 1) / R times the bytes of the array, and each element is summed along a binary tree. If
    R is not a power of two, let P be the largest power of two below R. Each rank numbered P or above first gives its
    array to another rank, and at the end gets the sums from that rank.
    """
    power = 1 << (size.bit_length() - 1)
    if rank >= power:
        yield Exchange(rank - power, give=flat)
        yield Exchange(rank - power, into=flat)
        return
    if rank + power < size:
        yield Exchange(rank + power, into=(received := _like(flat)))
        ops.add(flat, received, out=flat)
    whole, levels = flat, list[tuple[int, Array, Array]]()
    while (distance := 1 << len(levels)) < power:
        lower, upper = whole[: len(whole) // 2], whole[len(whole) // 2 :]
        own, theirs = (upper, lower) if rank & distance else (lower, upper)
        partner = rank ^ distance
        yield Exchange(partner, give=theirs, into=(received := _like(own)))
        ops.add(*((own, received) if rank < partner else (received, own)), out=own)
        levels.append((partner, own, theirs))
        whole = own
    for partner, own, theirs in reversed(levels):
        yield Exchange(partner, give=own, into=theirs)
    if rank + power < size:
        yield Exchange(rank + power, give=flat)


def collect(flat: Array, bounds: Sequence[int], rank: int, size: int, swap: Swap) -> None:
    """Give every rank all sections of an array of one axis, of which rank r has flat[bounds[r]:bounds[r + 1]]. If the
    number of ranks is not a power of two, and P is the largest power of two below it, the ranks numbered P or above
    have empty sections."""
    power = 1 << (size.bit_length() - 1)
    if rank >= power:
        swap(rank - power, into=flat[: bounds[power]])
        return
    distance = 1
    while distance < power:
        own = rank & -distance
        theirs = own ^ distance
        give, into = (flat[bounds[first] : bounds[first + distance]] for first in (own, theirs))
        swap(rank ^ distance, give=give, into=into)
        distance *= 2
    if rank + power < size:
        swap(rank + power, give=flat[: bounds[power]])


def _like(array: Array) -> Array:
    received: Array = backends.empty(array.shape, array.dtype, backends.device_of(array))
    return received
