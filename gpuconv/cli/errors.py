"""Errors that the user can fix are printed as one line; defects of gpuconv as a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpuconv.backends import DeviceError


class UserError(Exception):
    """An error that the user can fix; its message is the printed line."""


@contextmanager
def user_errors() -> Iterator[None]:
    """A context that converts errors into UserError, for code that interprets a user's input or files."""
    try:
        yield
    except OSError as error:
        raise UserError(describe(error)) from error
    except (ValueError, TypeError, DeviceError, ImportError, MemoryError) as error:
        raise UserError(str(error) or "not enough memory") from error


def describe(error: OSError) -> str:
    """An OSError without its number: "run: Permission denied"."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
