"""Which folders and files of the cache are trusted: those that only the user and root can write to."""

import grp
import os
import pwd
import shutil

import pytest

from gpuconv.backends.cuda.cache import Cache
from tests.backends.cuda.cache_filler import Filler


def give_away(path, monkeypatch):
    """Pretend that the file belongs to another user."""
    if os.getuid() == 0:
        os.chown(path, 4321, 4321, follow_symlinks=False)
    else:
        another = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: another)


@pytest.mark.parametrize("part", ["entry", "a", "b", "digest"])
@pytest.mark.parametrize("intruder", ["others-write", "group-writes", "another-owner"])
def test_an_entry_that_others_could_have_written_is_rebuilt(tmp_path, monkeypatch, part, intruder):
    store = Cache(tmp_path)
    entry = store.entry("k", ["x"], Filler("planted"))
    path = entry if part == "entry" else entry / part
    match intruder:
        case "others-write":
            path.chmod(path.stat().st_mode | 0o002)
        case "group-writes":
            monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group(("users", "x", number, ["alice"])))
            path.chmod(path.stat().st_mode | 0o020)
        case "another-owner":
            if os.getuid():
                pytest.skip("only root can give a file away")
            give_away(path, monkeypatch)
    assert store.find("k", ["x"]) is None
    assert (store.entry("k", ["x"], Filler("ours")) / "a").read_text() == "ours"


@pytest.mark.parametrize("where", ["root", "above"])
@pytest.mark.parametrize("intruder", ["others-write", "another-owner"])
def test_a_cache_that_others_could_write_to_is_not_used(tmp_path, monkeypatch, where, intruder):
    root = tmp_path / "above" / "root"
    Cache(root).entry("k", ["x"], Filler("planted"))
    path = root if where == "root" else root.parent
    if intruder == "others-write":
        path.chmod(0o777)
    else:
        give_away(path, monkeypatch)
    store = Cache(root)
    assert store.find("k", ["x"]) is None
    with pytest.warns(RuntimeWarning, match=f"({path}|belongs to user).*compiled again"):
        entry = store.entry("k", ["x"], Filler("ours"))
    assert (entry / "a").read_text() == "ours"
    assert not entry.is_relative_to(tmp_path)


def test_links_in_the_cache_are_not_followed(tmp_path):
    store = Cache(tmp_path / "cache")
    entry = store.entry("k", ["x"], Filler("planted"))
    (tmp_path / "elsewhere").mkdir()
    moved = entry.rename(tmp_path / "elsewhere" / "entry")
    entry.symlink_to(moved)
    assert store.find("k", ["x"]) is None
    entry.unlink()
    shutil.copytree(moved, entry)
    assert store.find("k", ["x"])
    (entry / "a").unlink()
    (entry / "a").symlink_to(moved / "a")
    assert store.find("k", ["x"]) is None


def test_a_cache_below_a_sticky_folder_such_as_tmp_is_used(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    store = Cache(tmp_path / "tmp" / "mine")
    assert store.entry("k", ["x"], Filler()) == store.find("k", ["x"])


def test_only_the_owner_can_write_new_entries_even_with_umask_0(tmp_path):
    before = os.umask(0)
    try:
        entry = Cache(tmp_path / "new" / "cache").entry("k", ["x"], Filler())
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (entry, entry.parent, entry.parent.parent)}
    assert modes == {0o755}
    assert {path.stat().st_mode & 0o777 for path in entry.iterdir()} == {0o644}


def test_a_group_that_holds_only_the_user_is_trusted(tmp_path, monkeypatch):
    """Ubuntu gives each user a group of the same name and umask 002, so new folders have mode 775."""
    store = Cache(tmp_path / "cache")
    store.entry("k", ["x"], Filler())
    (tmp_path / "cache").chmod(0o775)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: pwd.struct_passwd(("me", "x", number, 9, "", "/", "")))
    for name, members, used in (("me", [], True), ("me", ["me"], True), ("me", ["eve"], False), ("users", [], False)):
        monkeypatch.setattr(grp, "getgrgid", lambda n, g=name, m=members: grp.struct_group((g, "x", n, m)))
        assert bool(store.find("k", ["x"])) == used, (name, members)
    monkeypatch.setattr(grp, "getgrgid", lambda number: grp.struct_group(("me", "x", number, [])))
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"], raising=False)
    assert store.find("k", ["x"]) is None
