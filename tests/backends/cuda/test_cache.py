"""The cache of compiled kernels: what makes a new entry, and which failures and attacks it withstands."""

import grp
import importlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import cache, emulator
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.runtime.kernel import Module
from gpuconv.system import files


class Filler:
    """Writes `content` and counts its calls."""

    def __init__(self, content="made"):
        self.content, self.calls = content, 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "a").write_text(self.content)
        (folder / "b").write_bytes(b"\0\1")


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
    assert store.entry("k", ["x"], fill) == first  # and no second warning
    assert fill.calls == 1


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


@pytest.mark.slow
def test_a_planted_library_is_not_loaded(tmp_path, monkeypatch):
    """The library of another kernel, with a correct digest, in a cache that anyone can write to."""
    (tmp_path / "scale.cu").write_text(SOURCE)
    entries = {}
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    for factor in (7, 3):
        (tmp_path / "factor.cuh").write_text(f"#define FACTOR {factor}\n")
        assert scaled(tmp_path / "scale.cu") == factor
        (entries[factor],) = set((tmp_path / "cache").glob("scale*")) - set(entries.values())
    for mode, expected in ((0o755, 7), (0o777, 3)):
        root = tmp_path / f"{mode:o}"
        shutil.copytree(entries[7], root / entries[3].name)
        root.chmod(mode)
        monkeypatch.setenv("GPUCONV_CACHE_DIR", str(root))
        warned = pytest.warns(RuntimeWarning, match=rf"others can write {root}\)") if expected == 3 else nullcontext()
        with warned:
            assert scaled(tmp_path / "scale.cu") == expected


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


def test_only_the_owner_can_write_new_entries_whatever_the_umask(tmp_path):
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

    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("GPUCONV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache.directory() == Path(tempfile.gettempdir(), f"gpuconv-{os.getuid()}")


SOURCE = '#include "factor.cuh"\nextern "C" __global__ void scale(float* y) { y[threadIdx.x] *= FACTOR; }\n'


def scaled(path):
    y = emulator.asarray(np.ones(3, np.float32))
    Module(path, {}).kernel("scale")(1, 3, y)
    return y[0]


def test_an_edited_header_triggers_a_new_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text('#include "inner.cuh"\n')
    for factor in (2, 5, 2):
        (tmp_path / "inner.cuh").write_text(f"#define FACTOR {factor}\n")
        assert scaled(tmp_path / "scale.cu") == factor
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name.startswith("scale")]) == 2


def test_a_corrupt_library_is_recompiled_and_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 3\n")
    assert scaled(tmp_path / "scale.cu") == 3
    (library,) = (tmp_path / "cache").glob("scale*/library.so")
    intact = library.read_bytes()
    library.unlink()  # the loaded file is unchanged; a new one takes its name
    library.write_bytes(intact[: len(intact) // 2])
    assert scaled(tmp_path / "scale.cu") == 3
    assert library.stat().st_size > len(intact) // 2


@pytest.mark.slow
def test_three_processes_may_fill_the_cache_at_once(tmp_path):
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 7\n")
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from gpuconv.backends.cuda import emulator\n"
        "from gpuconv.backends.cuda.runtime import kernel\n"
        "y = emulator.asarray(np.ones(3, np.float32))\n"
        "kernel.Module(Path(sys.argv[1]), {}).kernel('scale')(1, 3, y)\n"
        "print(float(y[0]))"
    )
    environment = os.environ | {"GPUCONV_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program, str(tmp_path / "scale.cu")]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "7.0", err
        assert process.returncode == 0
    assert sorted(path.name.split("-")[0] for path in Path(tmp_path / "cache").iterdir()) == ["runtime", "scale"]
