"""What the user can put right is one line; what we have to put right is a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpuconv.backends import DeviceError


class UserError(Exception):
    """Something the user can put right; the message is the whole line that is printed."""


@contextmanager
def asked() -> Iterator[None]:
    """Around what interprets a user's words or files: what it refuses is the user's to put right."""
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
