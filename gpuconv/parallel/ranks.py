"""What training asks of its ranks; `Ranks` itself is one rank alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar, cast

from gpuconv import backends
from gpuconv.types import Array, Record

T = TypeVar("T")
P = ParamSpec("P")


class ParallelError(RuntimeError):
    """The ranks cannot go on together; the message names the rank that failed, differs or does not answer."""


def report_errors(method: Callable[P, T]) -> Callable[P, T]:
    """A decorator: the errors of a `method` of an object with an attribute `ranks` reach the other ranks."""

    @functools.wraps(method)
    def reporting(*arguments: P.args, **options: P.kwargs) -> T:
        with arguments[0].ranks.reporting_errors():  # type: ignore[attr-defined]
            return method(*arguments, **options)

    return reporting


def host() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "this machine")


class Ranks:
    """This process as rank `rank` of `size`. Every rank calls the same methods in the same order."""

    rank, size = 0, 1
    sent = 0  # bytes of summed arrays that this rank has sent
    capturable = True  # whether sums can be a part of a graph

    def own(self, device: str) -> str:
        """The device of this rank: `device`, unless "auto" or "cuda" leaves it open which GPU."""
        return device

    def begin(self, device: str) -> None:
        """Get ready to sum arrays of a `device`. Raises ValueError where these ranks cannot."""

    def share(self, value: T) -> T:
        """Rank 0's `value`, which can be pickled; that of other ranks is not read."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, which can be pickled, in the order of the ranks."""
        return [value]

    def exchange(self, array: Array | None, like: Array) -> list[Array]:
        """Every rank's array, in the order of the ranks, without those that are None.

        Args:
            array: This rank's, or None.
            like: An array of their device.
        """
        if self.size == 1:
            return [] if array is None else [array]
        everyone = self.gather(None if array is None else backends.to_numpy(array))
        return [backends.asarray(each, backends.device_of(like)) for each in everyone if each is not None]

    def meet(self) -> None:
        """Return when every rank has come here, so that a rank which then waits for its GPU does not wait for one that
        failed before."""
        self.gather(None)

    def sum(self, flat: Array, fixed: bool = True) -> None:
        """Replace an array by the sum of every rank's.

        Args:
            flat: Of one axis, changed in place.
            fixed: Whether to add along a binary tree over the ranks, so that the bits follow from their number alone.
        """

    def start(self, flat: Array, fixed: bool, number: int) -> Callable[[], None]:
        """Begin a `sum`, while the caller goes on; returns a function that finishes it.

        flat, fixed: as in `sum`. number: tells the sums apart that are begun at a time; the same on every rank."""
        self.sum(flat, fixed)
        return lambda: None

    def progress(self) -> None:
        """Go on with the sums that have begun, as far as other ranks have come."""

    def collect(self, flat: Array, ends: Sequence[int]) -> None:
        """Give every rank all stretches of an array.

        flat: of rank 1, of which rank r has flat[ends[r]:ends[r + 1]]. ends: ranks past the largest power of two have
        no stretch."""

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends with an `error`."""

    def first(self, work: Callable[[], T]) -> T:
        """The result of `work()`, called on rank 0 alone."""
        return cast(T, self.share(work() if self.rank == 0 else None))

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """A context whose errors reach the other ranks."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def expect_same(self, facts: Record, differences: Callable[[Record, Record], list[str]]) -> None:
        """Raise ParallelError, on every rank, that names the first rank whose facts are not those of rank 0.

        Args:
            facts: This rank's, by name.
            differences: Describes where two facts differ; an empty list if they do not.
        """
        everyone = self.gather(facts)
        for rank, theirs in enumerate(everyone):
            for name, value in everyone[0].items():
                if found := differences(theirs[name], value):
                    where = "; ".join(found[:3]).replace(" there", f" on rank {rank}").replace(" here", " on rank 0")
                    raise ParallelError(f"{self.name(rank)} has other {name} than rank 0: {where}")

    def name(self, rank: int) -> str:
        """What errors call the rank of number `rank`."""
        return f"rank {rank}"

    def __str__(self) -> str:
        return ", ".join(map(self.name, range(self.size)))
