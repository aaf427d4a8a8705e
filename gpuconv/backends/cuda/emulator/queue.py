"""What a captured step is on the emulated device: launches noted down, to be run again, and nothing else.

On a GPU the host cannot look at memory that work yet to run will write, and a capture refuses whatever is no launch.
Here every launch is done when it returns, so nothing would show; these contexts make it show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class HostAccessError(RuntimeError):
    """The host touched an emulated array where only kernels may; the message names the operation."""


_off_limits = False
_recording: list[Callable[[], None]] | None = None


@contextlib.contextmanager
def device_only() -> Iterator[None]:
    """Within this context any read, write, copy or wait by the host that goes through an emulated array or through
    `gpuconv.backends` raises HostAccessError; kernels, views and new, unwritten arrays are free.

    What Python cannot see is a plain `numpy.asarray(array)` and what is then read through it.
    """
    global _off_limits
    before, _off_limits = _off_limits, True
    try:
        yield
    finally:
        _off_limits = before


def host_reads() -> bool:
    """Whether the host may look into emulated memory now."""
    return not _off_limits


def forbid(operation: str) -> None:
    """Raise HostAccessError inside `device_only`; elsewhere do nothing."""
    if _off_limits:
        raise HostAccessError(f"the host may not touch the device's memory here, but: {operation}")


@contextlib.contextmanager
def recorded() -> Iterator[list[Callable[[], None]]]:
    """Within this context, which is `device_only`, launches do not run but are added to the list, in order."""
    global _recording
    before, _recording = _recording, []
    try:
        with device_only():
            yield _recording
    finally:
        _recording = before


def submit(launch: Callable[[], None]) -> None:
    """Run a launch, or note it down."""
    if _recording is None:
        launch()
    else:
        _recording.append(launch)
