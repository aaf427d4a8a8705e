"""Notices to the user while work continues: warnings, which the command line prints as one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from gpuconv.text.plain_text import printable


class Notice(RuntimeWarning):
    """A warning of gpuconv about its input or environment."""


def notice(text: str) -> None:
    """Issue `text` as a warning without a source line, every time, unless warnings are filtered."""
    warnings.warn_explicit(Notice(text), Notice, "<gpuconv>", 1, module="gpuconv")


@contextmanager
def on_stderr() -> Iterator[None]:
    """A context in which warnings are printed as one line on stderr, without a source line. A notice is never raised as
    an error."""

    def say(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        with suppress(OSError, ValueError):  # the terminal is closed
            print(f"gpuconv: warning: {printable(str(message))}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = say
        yield
