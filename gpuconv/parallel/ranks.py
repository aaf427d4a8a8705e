"""The interface through which training uses ranks; `Ranks` itself is a single rank."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar, cast

from gpuconv import backends
from gpuconv.text.parse_numbers import is_digits
from gpuconv.text.plain_text import one_line
from gpuconv.types import Array, Record

T = TypeVar("T")
P = ParamSpec("P")


class ParallelError(RuntimeError):
    """The ranks cannot continue together; the message names the rank that failed, differs or does not answer."""


def report_errors(method: Callable[P, T]) -> Callable[P, T]:
    """A decorator that reports errors of a method to the other ranks. method: of an object with an attribute
    `ranks`."""

    @functools.wraps(method)
    def reporting(*arguments: P.args, **options: P.kwargs) -> T:
        with arguments[0].ranks.reporting_errors():  # type: ignore[attr-defined]
            return method(*arguments, **options)

    return reporting


def host() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "this machine")


def number_in_environment(name: str) -> int:
    """The whole number in an environment variable. Raises ValueError, with its name, for anything else."""
    text = os.environ[name]
    if not is_digits(text):
        raise ValueError(f"{name} must be a whole number, received {text!r}")
    return int(text)


class Ranks:
    """This process as rank `rank` of `size`. Every rank calls the same methods in the same order."""

    rank, size = 0, 1
    sent = 0  # bytes that this rank has sent in `sum`, `start` and `collect`
    capturable = True  # whether sums can be a part of a graph
    _processes: Sequence[str] = ()  # descriptions of the ranks' processes, for messages

    def own_device(self, device: str) -> str:
        """This rank's device: `device`, or the GPU chosen for this rank if `device` is "auto" or "cuda"."""
        return device

    def begin(self, device: str) -> None:
        """Prepare to sum arrays of a `device`. Raises ValueError if these ranks cannot."""

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, which must be picklable; other ranks' values are ignored."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, which must be picklable, in the order of the ranks."""
        return [value]

    def exchange(self, array: Array | None, like: Array) -> list[Array]:
        """The arrays of all ranks that pass one, in the order of the ranks.

        Args:
            array: This rank's, or None.
            like: An array on the same device.
        """
        if self.size == 1:
            return [] if array is None else [array]
        everyone = self.gather(None if array is None else backends.to_numpy(array))
        return [backends.asarray(each, backends.device_of(like)) for each in everyone if each is not None]

    def barrier(self) -> None:
        """Wait until every rank has called this. A rank calls it before it waits for its GPU, which could wait for a
        rank that has failed."""
        self.gather(None)

    def sum(self, flat: Array, fixed: bool = True) -> None:
        """Replace an array by the sum of all ranks' arrays.

        Args:
            flat: An array of one axis, changed in place.
            fixed: Whether to add along a binary tree over the ranks, so that the bits depend only on the number of
                ranks.
        """

    def start(self, flat: Array, fixed: bool, number: int) -> Callable[[], None]:
        """Begin a `sum` while the caller continues; returns a function that waits for its end.

        flat, fixed: as in `sum`. number: tells apart the sums that run at the same time; the same on every rank."""
        self.sum(flat, fixed)
        return lambda: None

    def progress(self) -> None:
        """Continue the sums that have begun, as far as messages of other ranks have arrived."""

    def collect(self, flat: Array, ends: Sequence[int]) -> None:
        """Give every rank all sections of an array.

        flat: an array of one axis, of which rank r initially has the section flat[ends[r]:ends[r + 1]]. ends: the
        bounds of the sections. If the number of ranks is not a power of two, and P is the largest power of two below
        it, the ranks numbered P or above have empty sections."""

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends with an `error`."""

    def on_rank_0(self, work: Callable[[], T]) -> T:
        """The result of `work()`, which only rank 0 calls."""
        return cast(T, self.broadcast(work() if self.rank == 0 else None))

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """A context whose errors are reported to the other ranks."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def expect_same(self, facts: Record, differences: Callable[[Record, Record], list[str]]) -> None:
        """Raise ParallelError, on every rank, that names the first rank whose facts differ from rank 0's.

        Args:
            facts: This rank's facts, by name.
            differences: A function that lists the differences between two facts in words.
        """
        everyone = self.gather(facts)
        for rank, theirs in enumerate(everyone):
            for name, value in everyone[0].items():
                if found := differences(theirs[name], value):
                    where = "; ".join(found[:3]).replace(" there", f" on rank {rank}").replace(" here", " on rank 0")
                    raise ParallelError(f"{self.name(rank)} has other {name} than rank 0: {where}")

    def name(self, rank: int) -> str:
        """The name of rank `rank` in messages."""
        return f"rank {rank} ({self._processes[rank]})" if self._processes else f"rank {rank}"

    def failure(self, error: BaseException) -> str:
        """The message to other ranks about the `error` with which this one ends."""
        told = isinstance(error, ParallelError)  # it already names a rank
        return one_line(error if told else f"{self.name(self.rank)} failed: {type(error).__name__}: {error}")

    def __str__(self) -> str:
        return ", ".join(map(self.name, range(self.size)))

    # --- former names ---------------------------------------------------------------------------

    def share(self, value: T) -> T:
        """The former name of `broadcast`, with the same `value`."""
        return self.broadcast(value)

    def meet(self) -> None:
        """The former name of `barrier`."""
        self.barrier()

    def own(self, device: str) -> str:
        """The former name of `own_device`, with the same `device`."""
        return self.own_device(device)

    def first(self, work: Callable[[], T]) -> T:
        """The former name of `on_rank_0`, with the same `work`."""
        return self.on_rank_0(work)
