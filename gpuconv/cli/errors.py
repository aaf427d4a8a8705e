"""Errors that the user can fix are printed as one line; defects of gpuconv as a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gpuconv.backends import DeviceError
from gpuconv.system.files import describe_error


class UserError(Exception):
    """An error that the user can fix; its message is the printed line."""


def text_of(error: Exception) -> str:
    """An error's message, or what stands for it if it has none."""
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)


def expect_place(option: str, path: Path, future_folders: Sequence[Path] = ()) -> None:
    """Raise UserError unless a file can be put at `path`, before anything is done.

    Args:
        option: The option that names the file, such as "--trace".
        path: The file.
        future_folders: Folders that the command creates first, as absolute paths.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} must be a file, and is a folder")
    if not path.parent.is_dir() and path.parent.resolve() not in future_folders:
        raise UserError(f"{option} {path}: the folder to put it in does not exist")


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
        raise UserError(text_of(error)) from error
