"""Errors that the user can fix are printed as one line; defects of gpuconv as a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpuconv.backends import DeviceError
from gpuconv.system.files import describe_error


class UserError(Exception):
    """An error that the user can fix; its message is the printed line."""


@contextmanager
def user_errors() -> Iterator[None]:
    """A context that converts errors into UserError, for code that interprets a user's input or files."""
    try:
        yield
    except BrokenPipeError:  # the reader of the command's output has closed the pipe, which is no error
        raise
    except OSError as error:
        raise UserError(describe_error(error)) from error
    except (ValueError, TypeError, DeviceError, ImportError, MemoryError) as error:
        raise UserError(str(error) or "not enough memory") from error
