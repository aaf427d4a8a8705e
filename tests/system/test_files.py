"""Files are written completely or not at all, also by concurrent writers, and never through a link. Errors are
described in words."""

import errno
import os
import stat
import threading

import pytest

from gpuconv.system import files, locks
from gpuconv.system.files import describe_error
from tests.system.listing import names


def abandon(folder, content=b"half"):
    """Leaves a temporary file and a temporary folder without locks, as a killed writer does. Returns their names."""
    path, handle = files._claim(folder, files._make_file)
    os.write(handle, content)
    os.close(handle)
    path_of_folder, handle = files._claim(folder, files._make_folder)
    (path_of_folder / "object.o").write_bytes(content)
    os.close(handle)
    return [path.name, path_of_folder.name]


def test_a_file_is_replaced_with_the_users_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        files.write(tmp_path / "a", b"1")
        files.write(tmp_path / "a", b"2")
    finally:
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == b"2"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert names(tmp_path) == ["a"]


class Tokens:
    """Gives the names of temporary files in a known order, so that a test can create files with these names."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return str(self.count - 1) * 16


def test_a_planted_link_is_replaced_and_its_target_is_kept(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run" / "last").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(files, "_token", Tokens())
    (tmp_path / "run" / f".gpuconv-{'0' * 16}.part").symlink_to(tmp_path / "precious")
    files.write(tmp_path / "run" / "last", b"new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "run" / "last").read_bytes() == b"new"
    assert not (tmp_path / "run" / "last").is_symlink()


def test_a_planted_file_is_not_used_as_the_temporary_one(tmp_path, monkeypatch):
    """The file appears after the folder was cleared. It is a hard link to another file, so it looks like a file of
    gpuconv."""
    (tmp_path / "precious").write_text("mine")

    def plant(folder):
        os.link(tmp_path / "precious", folder / f".gpuconv-{'0' * 16}.part")
        (folder / f".gpuconv-{'1' * 16}.part").symlink_to(tmp_path / "made")

    monkeypatch.setattr(files, "_token", Tokens())
    monkeypatch.setattr(files, "clear", plant)
    files.write(tmp_path / "last", b"new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "last").read_bytes() == b"new"
    assert not os.path.samefile(tmp_path / "last", tmp_path / "precious")


def write_half(path, error):
    with files.replacing(path) as file:
        file.write(b"half")
        raise error


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    files.write(tmp_path / "a", b"old")
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError("drawing")):
        with pytest.raises(type(error)) as caught:
            write_half(tmp_path / "a", error)
        if isinstance(error, OSError):
            assert caught.value.filename == str(tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert names(tmp_path) == ["a"]


def test_an_error_that_names_another_file_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError, match="font"), files.replacing(tmp_path / "a"):
        open(tmp_path / "font")  # noqa: SIM115 - it does not exist


def test_a_file_can_be_written_into_an_unreadable_folder(tmp_path, monkeypatch):
    """The folder cannot be opened to sync the new name."""
    refused, original_open = [], os.open

    def refuse(path, *flags, **options):
        if path == tmp_path:
            refused.append(path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original_open(path, *flags, **options)

    monkeypatch.setattr(os, "open", refuse)
    files.write(tmp_path / "a", b"1")
    assert refused
    assert (tmp_path / "a").read_bytes() == b"1"


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        files.write(tmp_path / "pipe", b"")
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path / "folder", b"")
    with pytest.raises(FileNotFoundError) as caught:
        files.write(tmp_path / "none" / "a", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a")
    assert names(tmp_path) == ["folder", "pipe"]


def test_the_next_writer_removes_leftovers_of_dead_writers_only(tmp_path):
    dead = abandon(tmp_path)
    files.write(tmp_path / "quick", b"1")
    assert names(tmp_path) == ["quick"]
    dead = abandon(tmp_path)
    others = [".gpuconv-notes.part", "mine.part"]
    for name in others:
        (tmp_path / name).write_text("kept")
    with files.replacing(tmp_path / "slow") as slow, files.scratch(tmp_path) as living:
        slow.write(b"slow")
        (living / "library.so").write_bytes(b"x")
        assert not set(dead) & set(names(tmp_path))
        files.write(tmp_path / "quick", b"quick")
        assert (living / "library.so").exists()
    assert names(tmp_path) == sorted([*others, "quick", "slow"])
    assert (tmp_path / "slow").read_bytes() == b"slow"


def test_without_locks_nothing_is_cleared(tmp_path, monkeypatch):
    dead = abandon(tmp_path)

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    files.write(tmp_path / "a", b"1")
    assert names(tmp_path) == sorted([*dead, "a"])


def test_a_writer_whose_new_file_was_cleared_as_abandoned_makes_another(tmp_path, monkeypatch):
    """Another process may clear the folder after a file is created and before it is locked."""
    lock, cleared = locks.lock, []

    def lock_late(handle, *, wait=False):
        if wait and not cleared:
            cleared.extend(names(tmp_path))
            files.clear(tmp_path)
            cleared[:] = set(cleared) - set(names(tmp_path))
        return lock(handle, wait=wait)

    monkeypatch.setattr(locks, "lock", lock_late)
    files.write(tmp_path / "a", b"1")
    assert len(cleared) == 1
    cleared.clear()
    with files.scratch(tmp_path) as folder:
        assert folder.is_dir()
    assert len(cleared) == 1
    assert cleared != [folder.name]
    assert (tmp_path / "a").read_bytes() == b"1"


def test_with_many_writers_of_one_file_every_read_is_complete(tmp_path):
    path, contents = tmp_path / "a", [bytes([number]) * 300_000 for number in range(4)]
    files.write(path, contents[0])
    errors = []

    def work(content):
        try:
            for _ in range(20):
                files.write(path, content)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=work, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert not errors
    assert names(tmp_path) == ["a"]


def test_new_files_follow_the_umask_and_scratch_folders_are_private(tmp_path):
    before = os.umask(0)
    try:
        lock = locks.LockFile(tmp_path / "lock")
        with open(tmp_path / "log", "ab", opener=files.open_to_append) as log, files.scratch(tmp_path) as folder:
            made = [tmp_path / "lock", tmp_path / "log", folder]
            assert [oct(path.stat().st_mode & 0o777) for path in made] == ["0o666", "0o666", "0o700"]
            log.write(b"x")
        lock.release()
    finally:
        os.umask(before)
    assert names(tmp_path) == ["log"]


def test_an_error_of_a_folders_sync_is_raised_except_where_folders_cannot_be_synced(tmp_path, monkeypatch):
    fsync, code = os.fsync, [0]

    def refuse(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(code[0], os.strerror(code[0]))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", refuse)
    before = os.listdir("/proc/self/fd")
    for number in (errno.EINVAL, errno.ENOTSUP):
        code[0] = number
        files.write(tmp_path / "file", b"new")
    for number in (errno.EIO, errno.ENOSPC):
        code[0] = number
        with pytest.raises(OSError, match="file") as raised:
            files.write(tmp_path / "file", b"newer")
        assert raised.value.errno == number
    assert os.listdir("/proc/self/fd") == before


def test_a_write_is_retried_while_a_reader_blocks_it(tmp_path, monkeypatch):
    """On Windows an open file cannot be replaced or renamed."""
    refusals, waits, replace = [3], [], os.replace

    def refuse(temporary, path):
        assert not any(os.path.samefile(f"/proc/self/fd/{number}", temporary) for number in open_files())
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(errno.EACCES, "is used by another process", str(path))
        replace(temporary, path)

    monkeypatch.setattr(files, "_POSIX", False)
    monkeypatch.setattr(files, "_PAUSES", (0.1, 0.2, 0.4))
    monkeypatch.setattr(files.time, "sleep", waits.append)
    monkeypatch.setattr(files.os, "replace", refuse)
    files.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert waits == [0.1, 0.2, 0.4]
    refusals[0] = 4
    with pytest.raises(PermissionError, match="is used by another process"):
        files.write(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def open_files():
    return [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]


def test_a_system_error_is_described_in_words():
    for error, message in (
        (OSError(2, "No such file", "a"), "a: No such file"),
        (OSError(28, "No space left"), "No space left"),
        (OSError("in words"), "in words"),
    ):
        assert describe_error(error) == message
