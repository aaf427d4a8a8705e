"""The standard streams of a command: what happens if output cannot be written or is not wanted, and how a signal ends
the command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from gpuconv.notices import Notice
from gpuconv.system.console import handled_signals, quiet, say, say_in_handler

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def begin() -> None:
    """Prepare this process to end on a signal, and to note output that cannot be written. This is not undone, because
    nothing follows the command."""
    for number in (0, 1, 2):  # otherwise the next opened file would get the number of a closed one
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _stream(1, sys.stdout, "replace"), _stream(2, sys.stderr, "backslashreplace")
    if outlet := _outlet(sys.stderr):
        outlet.tolerant = True
    for each in handled_signals():
        signal.signal(each, _end_at_once)


def tolerate_lost_stdout() -> None:
    """Continue when standard output cannot be written: the output is not the only purpose of this command."""
    if outlet := _outlet(sys.stdout):
        outlet.tolerant = True


@contextlib.contextmanager
def silent(on: bool = True) -> Iterator[None]:
    """A context in which only errors are reported, and after which nothing more is written to standard output."""
    if not on:
        yield
        return
    sys.stdout = io.StringIO()
    logging.getLogger("gpuconv").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", Notice)
    with quiet():
        yield


def end(status: int) -> int:
    """Write the buffered output, and return the exit status: 2 in place of 0 if output was lost. Output to a pipe
    that its reader closed does not count as lost."""
    outlet = _outlet(sys.stdout)
    with contextlib.suppress(OSError):  # the stream keeps the error
        sys.stdout.flush()
    if outlet and outlet.error and not isinstance(outlet.error, BrokenPipeError) and not status:
        say(f"gpuconv: error: standard output: {outlet.error.strerror}")
        return 2
    return status


class Outlet(io.FileIO):
    """Standard output or error. The first failed write is kept as `error`, and everything after it is dropped."""

    error: OSError | None = None
    tolerant = False  # whether a failed write only sets `error`, and raises nothing

    def write(self, data: ReadableBuffer) -> int:
        try:
            while (count := super().write(data)) is None:  # the pipe is full, and another process made it non-blocking
                select.select([], [self], [])
            return count
        except OSError as error:
            name = {1: "standard output", 2: "standard error"}[self.fileno()]
            self.error = OSError(error.errno, error.strerror, name)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not self.tolerant:
                raise self.error from error
            return memoryview(data).nbytes


def _stream(number: int, old: TextIO | None, errors: str) -> io.TextIOWrapper:
    encoding, given = getattr(old, "encoding", None), getattr(old, "errors", "strict")
    errors = errors if given == "strict" else given
    if old is not None:
        old.flush()
    outlet = io.BufferedWriter(Outlet(number, "wb", closefd=False))
    return io.TextIOWrapper(outlet, encoding, errors, line_buffering=number == 2 or os.isatty(number))


def _outlet(stream: object) -> Outlet | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End immediately: files are written atomically, so none needs cleaning up."""
    say_in_handler(f"gpuconv: stopped by {signal.Signals(number).name}")
    os._exit(128 + number)
