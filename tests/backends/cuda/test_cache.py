"""The cache of compiled kernels: its folder, what makes a new entry, damaged entries, and read-only folders."""

import errno
import importlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.cache import Cache
from gpuconv.system import files
from tests.backends.cuda.cache_filler import Filler


def test_an_entry_is_filled_once(tmp_path):
    fill = Filler()
    first = Cache(tmp_path / "new" / "folder").entry("relu", ["a", "b"], fill)
    assert Cache(tmp_path / "new" / "folder").entry("relu", ["a", "b"], fill) == first
    assert (first / "a").read_text() == "made"
    assert first.name.startswith("relu-")
    assert fill.calls == 1
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # no temporary file is left


def test_each_part_of_the_key_makes_a_new_entry(tmp_path):
    fill, store = Filler(), Cache(tmp_path)
    entries = {store.entry("k", key, fill) for key in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"])}
    assert len(entries) == fill.calls == 5


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "no digest", "extra"])
def test_a_damaged_entry_is_rebuilt(tmp_path, damage):
    fill, store = Filler(), Cache(tmp_path)
    entry = store.entry("k", ["x"], fill)
    match damage:
        case "change":
            (entry / "a").write_text("mode")  # as long as "made"
        case "truncate":
            (entry / "b").write_bytes(b"\0")
        case "remove":
            (entry / "a").unlink()
        case "no digest":
            (entry / "digest").unlink()
        case "extra":
            (entry / "c").write_text("what is this")
    assert store.entry("k", ["x"], fill) == entry
    assert fill.calls == 2
    assert (entry / "a").read_text() == "made"
    assert sorted(path.name for path in entry.iterdir()) == ["a", "b", "digest"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_compile_leaves_no_files(tmp_path):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Cache(tmp_path).entry("k", ["x"], fail)
    assert list(tmp_path.iterdir()) == []


def test_the_entry_of_a_process_that_finished_first_is_used(tmp_path):
    inner, store = Filler("theirs"), Cache(tmp_path)

    def fill(folder):
        store.entry("k", ["x"], inner)  # another process finishes while we compile
        (folder / "a").write_text("ours")

    assert (store.entry("k", ["x"], fill) / "a").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A folder that nobody can write to, not even root."""

    def refuse(path):
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(tmp_path))
        return make(path)

    make = files._make_folder
    monkeypatch.setattr(files, "_make_folder", refuse)
    return tmp_path


def test_a_read_only_folder_is_replaced_by_a_private_one_with_a_warning(unwritable):
    fill, store = Filler(), Cache(unwritable)
    with pytest.warns(RuntimeWarning, match="cannot keep kernels in its cache.*GPUCONV_CACHE_DIR"):
        first = store.entry("k", ["x"], fill)
    assert not first.is_relative_to(unwritable)
    assert first.parent.stat().st_mode & 0o077 == 0
    assert store.entry("k", ["x"], fill) == first  # and no second warning
    assert fill.calls == 1


def test_a_folder_that_is_a_loop_of_links_is_replaced_by_a_private_one_with_a_warning(tmp_path):
    loop, fill = tmp_path / "loop", Filler()
    loop.symlink_to(loop)
    with pytest.warns(RuntimeWarning, match="cannot keep kernels in its cache"):
        assert Cache(loop).entry("k", ["x"], fill).is_dir()


def test_a_folder_on_a_full_disk_is_replaced_by_a_private_one_with_a_warning(tmp_path):
    fill = Filler()

    def on_full_disk(folder):
        fill(folder)
        if folder.is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.warns(RuntimeWarning, match=r"cannot keep kernels in its cache \(No space left on device\)"):
        entry = Cache(tmp_path).entry("k", ["x"], on_full_disk)
    assert not entry.is_relative_to(tmp_path)
    assert sorted(path.name for path in entry.iterdir()) == ["a", "b", "digest"]
    assert list(tmp_path.iterdir()) == []


def test_entries_of_a_read_only_folder_are_used(tmp_path, request):
    fill = Filler()
    entry = Cache(tmp_path).entry("k", ["x"], fill)
    request.getfixturevalue("unwritable")
    assert Cache(tmp_path).entry("k", ["x"], fill) == entry
    assert fill.calls == 1


def test_entries_of_a_read_only_folder_are_used_alongside_new_ones(tmp_path, request):
    fill = Filler()
    entry = Cache(tmp_path).entry("k", ["x"], fill)
    request.getfixturevalue("unwritable")
    store = Cache(tmp_path)
    with pytest.warns(RuntimeWarning, match="kernels not in it"):
        new = store.entry("k", ["y"], fill)
    assert store.entry("k", ["x"], fill) == entry
    assert store.entry("k", ["y"], fill) == new
    assert fill.calls == 2


def test_the_warning_shows_no_line_of_our_source(unwritable):
    with pytest.warns(RuntimeWarning) as caught:
        Cache(unwritable).entry("k", ["x"], Filler())
    message = warnings.formatwarning(caught[0].message, caught[0].category, caught[0].filename, caught[0].lineno)
    assert message.startswith(
        f"<gpuconv>:1: Notice: gpuconv cannot keep kernels in its cache ({unwritable}: Permission"
    )
    assert message.count("\n") == 1


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("GPUCONV_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "gpuconv"
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "mine"))
    assert cache.directory() == tmp_path / "mine"
    assert cache.default() is cache.default()
    assert cache.default().root == tmp_path / "mine"
    monkeypatch.setenv("GPUCONV_CACHE_DIR", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "mine"


def test_the_cache_is_where_platformdirs_puts_it(monkeypatch, tmp_path):
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for name in ("GPUCONV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    classes = {"linux": ("unix", "Unix"), "darwin": ("macos", "MacOS")}
    for platform, (module, name) in classes.items():
        monkeypatch.setattr(sys, "platform", platform)
        directories = getattr(importlib.import_module(f"{platformdirs.__name__}.{module}"), name)
        assert cache.directory() == directories("gpuconv", appauthor=False).user_cache_path, platform
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache.directory() == tmp_path / "local/gpuconv/Cache"


def test_the_cache_of_a_user_without_a_home_is_in_the_temporary_folder(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("GPUCONV_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache.directory() == Path(tempfile.gettempdir(), f"gpuconv-{os.getuid()}"), platform
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache.directory() == Path("/local/gpuconv/Cache")
    with monkeypatch.context() as patch:
        patch.delattr(os, "getuid")
        patch.delenv("LOCALAPPDATA")
        assert cache.directory() == Path(tempfile.gettempdir(), "gpuconv")
