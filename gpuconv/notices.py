"""What a user should know although the work goes on: a warning, which the command line says in one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gpuconv.names import printable


class Notice(RuntimeWarning):
    """What gpuconv says beside its results."""


def notice(text: str) -> None:
    """Warn of `text`, without a line of our source, each time that it happens, unless warnings are filtered."""
    warnings.warn_explicit(Notice(text), Notice, "<gpuconv>", 1, module="gpuconv")


@contextmanager
def on_stderr() -> Iterator[None]:
    """Warnings are one line on stderr, without Python's line of source; a notice is never an error (`-W error`)."""

    def say(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
        with suppress(OSError, ValueError):  # of a terminal that is gone
            print(f"gpuconv: warning: {printable(str(message))}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = say
        yield
