"""Checkpoint files: contents survive a round trip, and damaged files are refused."""

import errno
import hashlib
import json
import math
import os
import re
import struct

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.checkpoint import Checkpoint, CheckpointError, load, save, write_atomically
from gpuconv.dtypes import as_dtype
from gpuconv.system import files

STATE = {"epoch": 3, "nested": {"list": [1, 2.5, None], "text": "ä"}, "third": 1 / 3}


def some_arrays():
    draw = np.random.default_rng(0)
    return {
        "net.conv1.weight": draw.standard_normal((3, 2, 1, 5)).astype(np.float32),
        "net.conv1.bias": draw.standard_normal(3),
        "net.half": draw.standard_normal((2, 3)).astype(np.float16),
        "net.offset": np.array([2**40], np.int64),
        "net.empty": np.zeros((0, 4), np.float32),
        "steps": np.array(7, np.int64),
    }


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "run.safetensors", Checkpoint(some_arrays(), STATE))
    return tmp_path / "run.safetensors"


def test_a_saved_checkpoint_is_read_back(path):
    loaded = load(path)
    assert loaded.state == STATE
    assert set(loaded.tensors) == set(some_arrays())
    for name, value in some_arrays().items():
        assert loaded.tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded.tensors[name], value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_bfloat16_arrays_are_read_back(tmp_path):
    pytest.importorskip("ml_dtypes")
    value = np.array([1.5, -2.25, 3e38]).astype(as_dtype("bfloat16"))
    save(tmp_path / "b", Checkpoint({"x": value}))
    assert load(tmp_path / "b").tensors["x"].dtype == value.dtype
    np.testing.assert_array_equal(load(tmp_path / "b").tensors["x"], value)


DTYPES = (
    {f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)}
    | {"bool"}
    | {f"float{bits}" for bits in (16, 32, 64)}
)


def test_every_dtype_of_numpy_is_stored_and_loaded_or_refused(tmp_path):
    for code in np.typecodes["All"]:
        value, path = np.zeros(2, np.dtype(code)), tmp_path / f"{code}.safetensors"
        if value.dtype.name in DTYPES:
            save(path, Checkpoint({"net.seen": value}))
            assert load(path).tensors["net.seen"].dtype == value.dtype
        else:
            message = re.escape(f"cannot save {path}: net.seen is of dtype {value.dtype}; accepted are")
            with pytest.raises(CheckpointError, match=message):
                save(path, Checkpoint({"net.seen": value}))
            assert not path.exists()


def test_a_byte_swapped_array_is_stored_by_its_values(tmp_path):
    value = np.arange(6.0).reshape(2, 3).astype(">f4")
    save(tmp_path / "x", Checkpoint({"x": value}))
    loaded = load(tmp_path / "x").tensors["x"]
    assert loaded.dtype.isnative
    np.testing.assert_array_equal(loaded, value)


def test_a_masked_array_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="x is masked"):
        save(tmp_path / "x", Checkpoint({"x": np.ma.masked_array([1.0, 2.0], [True, False])}))
    assert not any(tmp_path.iterdir())


def test_a_name_that_could_not_be_read_again_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="safetensors cannot store an array named '__metadata__'"):
        save(tmp_path / "x", Checkpoint({"__metadata__": np.ones(2)}))
    assert not (tmp_path / "x").exists()


def test_the_same_state_gives_the_same_bytes(path):
    reordered = {name: np.array(value, order="F") for name, value in reversed(some_arrays().items())}
    save(path.parent / "again", Checkpoint(reordered, STATE))
    assert (path.parent / "again").read_bytes() == path.read_bytes()


def test_other_safetensors_readers_find_the_weights(path):
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(path)["net.conv1.bias"], some_arrays()["net.conv1.bias"])


def test_a_part_is_selected_by_its_prefix():
    arrays = Checkpoint(some_arrays()).part("net")
    assert set(arrays) == {"conv1.weight", "conv1.bias", "half", "offset", "empty"}


def test_a_state_that_could_not_be_read_again_is_not_saved(path):
    before = path.read_bytes()
    for value, message in (
        (float("nan"), "NaN is not a finite number"),
        (-math.inf, "-Infinity is not a finite number"),
        (nested(120), "nested too deeply"),
        (nested(5000), "nested too deeply"),
        (np.float32(1), "float32"),
    ):
        with pytest.raises(CheckpointError, match=f"cannot save .*{message}"):
            save(path, Checkpoint({}, {"loss": value}))
        assert path.read_bytes() == before


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


# --- files that are broken ---------------------------------------------------------------------


def test_truncations_are_detected(path):
    content = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1} | set(range(0, len(content), 97))
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=re.escape(f"{path} ({length} bytes) is truncated")):
            load(path)


def test_flipped_bytes_are_detected(path):
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 3):
        broken = bytearray(content)
        broken[at] ^= 0x41
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"corrupt|has checkpoint format"):
            load(path)


def test_appended_bytes_are_detected(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="corrupt"):
        load(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*none: No such file"):
        load(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*: is not a regular file"):
            load(tmp_path / name)


def test_an_invalid_safetensors_header_is_refused(tmp_path):
    for text in (b"[]", b"{}", b'{"__metadata__": 3}', b"[" * 100_000):
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(CheckpointError):
            load(tmp_path / "x")


def write_with_header(path, header, data=b""):
    """Writes a file with the given header. If the header's state is text, adds format 1 and the right checksum where
    the header lacks them."""
    if isinstance(header.get("state"), str):
        digest = hashlib.sha256(header["state"].encode("utf-8", "surrogatepass")).hexdigest()
        header = {"format": 1, "sha256": digest} | header
    text = json.dumps({"__metadata__": {"gpuconv": json.dumps(header)}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_state_that_is_not_a_plain_object_is_refused(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    for state, message in [
        ("[]", "expected a JSON object"),
        ("", "Expecting value"),
        (deep, "nested too deeply"),
        (f'{{"settings": {deep}}}', "nested too deeply"),
        ('{"lr": NaN}', "NaN is not a finite number"),
        ('{"lr": 1e999}', "1e999 is not a finite number"),
        ("{", "Expecting"),
        (f'{{"a": {"9" * 5000}}}', "digits"),
        ("\ud800", "surrogates"),
    ]:
        write_with_header(tmp_path / "x", {"state": state})
        with pytest.raises(CheckpointError, match=f"x is corrupt: .*{message}"):
            load(tmp_path / "x")
    write_with_header(tmp_path / "x", {"state": "{}"})
    assert load(tmp_path / "x").state == {}


def test_json_may_be_nested_in_99_levels_and_not_in_100():
    for levels, fits in ((99, True), (100, False)):
        text = '{"a":' * levels + "1" + "}" * levels
        if fits:
            assert checkpoint.parse(text)
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                checkpoint.parse(text)


def test_a_long_value_is_cut_in_a_message():
    assert checkpoint.short_json("x" * 78) == f'"{"x" * 78}"'  # 80 characters with its quotes
    assert checkpoint.short_json("x" * 79) == f'"{"x" * 76}...'


def test_a_header_with_missing_entries_or_entries_of_wrong_types_is_refused(tmp_path):
    for header in [
        {"format": 1},
        {"format": 1, "state": "{}", "sha256": 1},
        {"format": 1, "state": 3},
        {"format": [1]},
        {},
        {"format": 1, "state": None, "sha256": None},
    ]:
        write_with_header(tmp_path / "x", header)
        with pytest.raises(CheckpointError, match=r"x is corrupt|has checkpoint format|not a checkpoint of gpuconv"):
            load(tmp_path / "x")


def test_bare_weights_are_refused_as_a_checkpoint(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of gpuconv"):
        load(tmp_path / "w.safetensors")


def test_another_format_is_named(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save(path, Checkpoint(some_arrays(), STATE))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this version of gpuconv reads 1"):
        load(path)


def test_an_array_outside_the_checksum_is_detected(path):
    """Another program could add an array of a dtype that the checksum does not cover."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    header["net.more"] = {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [len(data), len(data) + 2]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + b"xy")
    with pytest.raises(CheckpointError):
        load(path)


# --- full disks and folders that cannot be written ---------------------------------------------


class FullDisk:
    """A file that takes half of the bytes of a write and then fails as a full disk does."""

    def __init__(self, *args):
        self.file = open(*args)  # noqa: SIM115 - closed by __exit__

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(files, "open", FullDisk, raising=False)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path, full_disk):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left on device; .* is as it was before"):
        save(path, Checkpoint({"x": np.ones(100)}))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_error_for_a_failure_after_the_rename_does_not_call_the_file_unchanged(path, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = path.read_bytes()
    monkeypatch.setattr(files, "_sync", refuse)
    with pytest.raises(CheckpointError, match=r"Input/output error$"):
        save(path, Checkpoint({"x": np.ones(100)}))
    assert path.read_bytes() != before


def test_a_failed_rename_leaves_the_old_file_too(path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save(path, Checkpoint({"x": np.ones(100)}))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_abort_leaves_no_partial_file(path, monkeypatch):
    def abort(handle):
        raise KeyboardInterrupt

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", abort)
    with pytest.raises(KeyboardInterrupt):
        save(path, Checkpoint({"x": np.ones(100)}))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(CheckpointError, match=r"cannot write .*Not a directory"):
        write_atomically(tmp_path / "file" / "last.safetensors", b"x")
    assert (tmp_path / "file").read_text() == "here first"


def test_the_bytes_reach_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_atomically(tmp_path / "x", b"1")
    assert order[:2] == ["fsync", "replace"]


def test_the_folder_is_synced_after_the_file_got_its_name(path, monkeypatch):
    synced, sync = [], os.fsync

    def watch(handle):
        if os.path.samestat(os.fstat(handle), path.parent.stat()):
            synced.append(path.read_bytes())
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    save(path, Checkpoint({"x": np.ones(3)}))
    assert synced[-1:] == [path.read_bytes()]


def test_the_former_module_name_is_the_same_module():
    from gpuconv.training import checkpoint as former

    assert former is checkpoint
