"""Captured steps on the emulated device: recorded launches that are run again.

On a GPU the host cannot see memory that pending work will write, and a capture refuses everything but launches. Here
every launch is synchronous, so violations would go unnoticed; these contexts detect them, for the current thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar


class HostAccessError(RuntimeError):
    """The host accessed an emulated array where only kernels may; the message names the operation."""


_off_limits = ContextVar("only kernels may access emulated memory", default=False)
_recording: ContextVar[list[Callable[[], None]] | None] = ContextVar("launches are added to this list", default=None)


@contextlib.contextmanager
def device_only() -> Iterator[None]:
    """A context in which any read, write, copy or wait by the host through an emulated array or `gpuconv.backends`
    raises HostAccessError; kernels, views and new, unwritten arrays are allowed.

    It cannot detect access through the array's buffer, as by `numpy.asarray(array)`, or through its attributes `flat`
    and `real`.
    """
    token = _off_limits.set(True)
    try:
        yield
    finally:
        _off_limits.reset(token)


def host_reads() -> bool:
    """Whether the host may access emulated memory now."""
    return not _off_limits.get()


def forbid(operation: str) -> None:
    """Raise HostAccessError inside `device_only`; elsewhere do nothing."""
    if _off_limits.get():
        raise HostAccessError(f"only kernels may access emulated memory here, but the host used {operation}")


@contextlib.contextmanager
def capture_launches() -> Iterator[list[Callable[[], None]]]:
    """A `device_only` context in which launches are not run but added to the yielded list, in order."""
    launches: list[Callable[[], None]] = []
    token = _recording.set(launches)
    try:
        with device_only():
            yield launches
    finally:
        _recording.reset(token)


def submit(launch: Callable[[], None]) -> None:
    """Run a launch, or record it."""
    launches = _recording.get()
    if launches is None:
        launch()
    else:
        launches.append(launch)
