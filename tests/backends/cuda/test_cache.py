"""The cache of compiled kernels: what makes a new entry, and what it survives."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuconv import files
from gpuconv.backends.cuda import cache, emulator
from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.module import Module


class Filler:
    """Writes `content`, and counts how often it had to."""

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
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # nothing temporary stays


def test_each_part_of_the_key_counts(tmp_path):
    fill, store = Filler(), Cache(tmp_path)
    entries = {store.entry("k", key, fill) for key in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"])}
    assert len(entries) == fill.calls == 5


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "no digest", "extra"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    fill, store = Filler(), Cache(tmp_path)
    entry = store.entry("k", ["x"], fill)
    match damage:
        case "change":
            (entry / "a").write_text("mode")
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


def test_a_failed_compile_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Cache(tmp_path).entry("k", ["x"], fail)
    assert list(tmp_path.iterdir()) == []


def test_another_process_was_first(tmp_path):
    inner, store = Filler("theirs"), Cache(tmp_path)

    def fill(folder):
        store.entry("k", ["x"], inner)  # finishes while we compile
        (folder / "a").write_text("ours")

    assert (store.entry("k", ["x"], fill) / "a").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A folder nobody may write, root included."""

    def refuse(path):
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(tmp_path))
        return make(path)

    make = files._make_folder
    monkeypatch.setattr(files, "_make_folder", refuse)
    return tmp_path


def test_a_read_only_folder_gives_a_private_one_and_a_warning(unwritable):
    fill, store = Filler(), Cache(unwritable)
    with pytest.warns(RuntimeWarning, match="cannot write its cache.*GPUCONV_CACHE_DIR"):
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


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("GPUCONV_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "gpuconv"
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "mine"))
    assert cache.directory() == tmp_path / "mine"
    assert cache.default() is cache.default()
    assert cache.default().root == tmp_path / "mine"


SOURCE = '#include "factor.cuh"\nextern "C" __global__ void scale(float* y) { y[threadIdx.x] *= FACTOR; }\n'


def scaled(path):
    y = emulator.asarray(np.ones(3, np.float32))
    Module(path, {}).kernel("scale")(1, 3, y)
    return y[0]


def test_an_edited_header_is_compiled_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text('#include "inner.cuh"\n')
    for factor in (2, 5, 2):
        (tmp_path / "inner.cuh").write_text(f"#define FACTOR {factor}\n")
        assert scaled(tmp_path / "scale.cu") == factor
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name.startswith("scale")]) == 2


def test_a_corrupt_library_is_compiled_anew_and_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 3\n")
    assert scaled(tmp_path / "scale.cu") == 3
    (library,) = (tmp_path / "cache").glob("scale*/library.so")
    whole = library.read_bytes()
    library.unlink()  # the loaded file stays as it is; a new one takes its name
    library.write_bytes(whole[: len(whole) // 2])
    assert scaled(tmp_path / "scale.cu") == 3
    assert library.stat().st_size > len(whole) // 2


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    (tmp_path / "scale.cu").write_text(SOURCE)
    (tmp_path / "factor.cuh").write_text("#define FACTOR 7\n")
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from gpuconv.backends.cuda import emulator, module\n"
        "y = emulator.asarray(np.ones(3, np.float32))\n"
        "module.Module(Path(sys.argv[1]), {}).kernel('scale')(1, 3, y)\n"
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
