"""Atomic file writes, used wherever gpuconv replaces a file. Concurrent writers are safe, and a symbolic link is
replaced, never followed.

Data is written to a temporary file with a unique name in the same folder, flushed to disk, and then renamed. The
temporary file is locked while its writer lives. A killed writer's file is unlocked, and the next writer in that folder
removes it; if the file system has no locks, nothing is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from gpuconv.system import locks
from gpuconv.system.locks import NO_LINK, NO_WAIT

_TEMPORARY = re.compile(r"\.gpuconv-[0-9a-f]{16}\.part")
_POSIX = os.name == "posix"
_PAUSES = () if _POSIX else (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds; Windows cannot replace an open file


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file atomically: readers, even after a crash, find either the old contents or the new.

    Raises OSError, naming `path`, if it cannot be written; then the old file is unchanged, unless the error came from
    flushing the folder after the rename.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file to write to, which replaces the one at `path` when the block ends without an error.

    Raises as `write` does; errors of the block that name another file pass through.
    """
    path = Path(path)
    try:
        _expect_file_or_nothing(path)
        clear(path.parent)
        temporary, handle = _claim(path.parent, _make_file)
        try:
            with open(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not _POSIX:  # Windows cannot rename an open file, and has no lock to keep
                    file.close()
                _replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        if error.filename and not _TEMPORARY.fullmatch(os.path.basename(error.filename)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A private folder inside `folder` for files that are moved elsewhere when they are complete. It is removed at the
    end."""
    if not _POSIX:  # Windows cannot open, and so cannot lock, a folder
        import tempfile

        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    clear(folder)
    path, handle = _claim(folder, _make_folder)
    try:
        yield path
    finally:
        _remove_folder(path)
        os.close(handle)


def clear(folder: Path) -> None:
    """Remove the temporary files and scratch folders that killed writers left in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. Raises OSError for anything but a regular file, without blocking: opening a FIFO would
    wait for a writer, and a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT))


def open_to_append(path: str | os.PathLike[str], flags: int) -> int:
    """An `opener` for the built-in `open` that does not follow links."""
    return os.open(path, flags | NO_LINK, 0o666)


def _token() -> str:
    return os.urandom(8).hex()


def _claim(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Create something under a unique name and lock it. Returns its path and handle."""
    while True:
        path = folder / f".gpuconv-{_token()}.part"
        try:
            handle = make(path)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if not folder.is_dir():
                raise
            continue  # another writer removed the scratch folder before it was opened
        locks.lock(handle, wait=True)
        if locks.is_at(handle, path):
            return path, handle
        os.close(handle)  # another writer removed it before it was locked


def _make_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | NO_LINK)


def _remove_folder(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _remove_if_abandoned(path: Path) -> None:
    folder = stat.S_ISDIR(os.lstat(path).st_mode)
    handle = os.open(path, (os.O_RDONLY if folder else os.O_RDWR) | NO_WAIT | NO_LINK)
    try:
        if locks.lock(handle):
            if folder:
                _remove_folder(path)
            else:
                path.unlink()
    finally:
        os.close(handle)


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether both paths lead to the same existing file."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def describe_error(error: OSError) -> str:
    """An OSError without its number: "run: Permission denied"."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _replace(temporary: Path, path: Path) -> None:
    """Rename a file. On Windows, waits up to a second for a reader that blocks it."""
    for pause in _PAUSES:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(pause)
    os.replace(temporary, path)


def _expect_file_or_nothing(path: Path) -> None:
    """Raise OSError for a folder, device or pipe; files and links may be replaced."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "exists and is not a regular file", str(path))


def _sync(folder: Path) -> None:
    """Flush a folder to disk, so that a new name survives a power failure, if the system supports it."""
    if not _POSIX:
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without fsync for folders
            raise
    finally:
        os.close(handle)
