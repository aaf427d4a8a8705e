"""Locks that the operating system releases when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # in the flags of `os.open`: refuse a symbolic link
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_held: set[int] = set()


def lock(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed. Returns whether it is locked now: False if another process, or
    another handle of this one, holds the lock, and None if the file system has no locks.

    wait: wait until the lock is free.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, waiting for other processes and threads; does nothing if there are no locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def is_at(handle: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


class LockedError(OSError):
    """Another process, or another handle of this one, holds the lock; the message says which process."""


class LockFile:
    """A lock with a file, which exists while the lock is held, and after its holder was killed.

    The file names the holder, for people; only the system's lock counts. `supported` is False if there are no locks.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises LockedError if it is held, OSError if the file cannot be created."""
        self.path = path
        while True:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK | NO_WAIT, 0o666)
            try:
                if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                    raise OSError(errno.EINVAL, "exists and is not a regular file", str(path))
                taken = lock(self._handle)
                if taken is False:
                    raise LockedError(_describe_holder(self._handle))
                if is_at(self._handle, path):  # otherwise its last holder has just removed the file
                    break
            except BaseException:
                os.close(self._handle)
                raise
            os.close(self._handle)
        self.supported = taken is True
        _held.add(self._handle)
        import socket

        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(self._handle, 0)
            os.write(self._handle, json.dumps(who).encode())
        except OSError:  # a full disk
            self.release()
            raise

    def release(self) -> None:
        """Remove the file and release the lock; a second call does nothing."""
        if self._handle in _held:
            _held.discard(self._handle)
            if os.name != "posix":  # Windows cannot remove an open file
                os.close(self._handle)
            self.path.unlink(missing_ok=True)
            if os.name == "posix":  # remove the name first, while the lock is still held
                os.close(self._handle)


def _describe_holder(handle: int) -> str:
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _let_go() -> None:
    """In a forked child: close the handles of its parent's locks, which the parent keeps."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
