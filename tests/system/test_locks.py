"""Locks on files: who holds one, when it is free again, and platforms without locks."""

import errno
import os

import pytest

from gpuconv.system import locks
from tests.system.listing import names


def test_a_lock_file_names_its_holder_and_is_removed_on_release(tmp_path):
    first = locks.LockFile(tmp_path / "lock")
    assert first.supported
    with pytest.raises(locks.LockedError, match=rf"process {os.getpid()} on .* since \d{{4}}-"):
        locks.LockFile(tmp_path / "lock")
    first.release()
    first.release()
    assert names(tmp_path) == []
    locks.LockFile(tmp_path / "lock").release()


def test_the_lock_of_a_killed_process_is_free_and_a_fork_does_not_keep_it(tmp_path):
    """The child dies without releasing the lock; its own child lives on."""
    (read, write), (ready, tell) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        locks.LockFile(tmp_path / "lock")
        if not os.fork():
            os.write(tell, b"x")
            os.read(read, 1)
        else:
            os.read(ready, 1)
        os._exit(0)
    os.waitpid(child, 0)
    assert names(tmp_path) == ["lock"]
    locks.LockFile(tmp_path / "lock").release()
    os.write(write, b"x")
    for handle in (read, write, ready, tell):
        os.close(handle)


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The holder releases the lock after we open the file and before we lock it."""
    lock, holder = locks.lock, [locks.LockFile(tmp_path / "lock")]

    def lock_late(handle, **options):
        if holder:
            holder.pop().release()
        return lock(handle, **options)

    monkeypatch.setattr(locks, "lock", lock_late)
    second = locks.LockFile(tmp_path / "lock")
    with pytest.raises(locks.LockedError):
        locks.LockFile(tmp_path / "lock")
    second.release()


def test_a_lock_that_cannot_be_written_is_released(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(locks.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            locks.LockFile(tmp_path / "lock")
    assert names(tmp_path) == []
    locks.LockFile(tmp_path / "lock").release()


def test_a_link_or_pipe_in_place_of_a_lock_is_refused(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=name):
            locks.LockFile(tmp_path / name)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_holder_that_cannot_be_read_is_called_another_process(tmp_path):
    lock = locks.LockFile(tmp_path / "lock")
    for text in (b"", b"{}", b"[1]", b"[" * 4000, b"no json"):
        os.ftruncate(lock._handle, 0)
        os.pwrite(lock._handle, text, 0)
        with pytest.raises(locks.LockedError, match=r"^another process$"):
            locks.LockFile(tmp_path / "lock")
    lock.release()


def test_a_platform_without_locks_is_accepted_and_a_lock_that_fails_raises(tmp_path, monkeypatch):
    code = [0]

    def refuse(*_):
        raise OSError(code[0], os.strerror(code[0]))

    with open(tmp_path / "file", "wb") as file:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        for number in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EBADF):
            code[0] = number
            assert locks.lock(file.fileno()) is None
        code[0] = errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            locks.lock(file.fileno())
        monkeypatch.setattr(locks, "fcntl", None)
        assert locks.lock(file.fileno()) is None
