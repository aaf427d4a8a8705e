"""train --resume, evaluate, predict and summary refuse a damaged or crafted run folder in one line, or give the result
of the undamaged folder.

There is never a traceback. The result may differ only where the checksum was computed anew from the changed contents.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.cli import main
from gpuconv.training import RunDirectory

pytestmark = pytest.mark.slow

Image = pytest.importorskip("PIL.Image")

DEEP = json.loads("[" * 300 + "]" * 300)
VALUES = [
    ...,  # deletes the entry
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "x",
    "0",
    "../..",
    "nan",
    "\ud800",
    "a" * 300,
    [],
    [1],
    [[]],
    {},
    {"layer": "ReLU"},
    {"layer": []},
    {"optimizer": {}},
    {"": None},
    DEEP,
]
READING_COMMANDS = [["evaluate", "run"], ["predict", "x.png", "--run-dir", "run"], ["summary", "--run-dir", "run"]]
COMMANDS = [["train", "--resume", "run"], *READING_COMMANDS]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run and a picture."""
    folder = tmp_path_factory.mktemp("home")
    data = ["--data", "synthetic:n=24,size=6x6x3,classes=3", "--batch-size", "8"]
    Image.fromarray(np.full((6, 6, 3), 99, np.uint8)).save(folder / "x.png")
    options = ["--model", "seed-net", "--augment", "flip", "--epochs", "2", "--run-dir", str(folder / "run")]
    assert main(["train", *data, *options, "--device", "numpy"]) == 0
    return folder


@pytest.fixture
def run(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunDirectory("run")


class Commands:
    """Runs commands and compares their output with their output on the undamaged run folder."""

    def __init__(self, capsys):
        self.capsys = capsys
        self.expected = {tuple(command): self.run(command)[1] for command in COMMANDS}

    def run(self, command):
        self.capsys.readouterr()
        with np.errstate(all="ignore"):
            status = main([*command, "--device", "numpy"])
        out, err = self.capsys.readouterr()
        assert status in (0, 2), (command, status)
        if status == 2:
            assert err.startswith("gpuconv: error: "), err
            assert err.count("\n") == 1, err
            assert len(err) < 2000, err
        return status, out

    def expect_refusal_or_the_same_output(self, command):
        """Whether the command was refused."""
        status, out = self.run(command)
        assert status == 2 or out == self.expected[tuple(command)]
        return status == 2


def paths(value, path=()):
    """The path of every entry of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield (*path, key)
        yield from paths(entry, (*path, key))


def mutated(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def test_changed_entries_of_run_json_are_refused_or_change_nothing(run, capsys):
    commands, draw = Commands(capsys), random.Random(0)
    valid, content = run.settings_file.read_text(), json.loads(run.settings_file.read_text())
    last, refused, tried = run.last.read_bytes(), 0, 0
    for path in paths(content):
        for new in [..., *draw.sample(VALUES[1:], 4)]:
            run.settings_file.write_text(json.dumps(mutated(content, path, new)))
            were_refused = [commands.expect_refusal_or_the_same_output(command) for command in COMMANDS]
            refused += any(were_refused)
            tried += 1
            assert run.last.read_bytes() == last, (path, new)
    run.settings_file.write_text(valid)
    assert 0.5 < refused / tried < 1


def test_changed_entries_of_a_checkpoint_with_a_valid_checksum_give_no_traceback(run, capsys, monkeypatch):
    """The checksum matches the changed contents, so the commands read them."""
    monkeypatch.setattr(checkpoint, "dump", json.dumps)  # writes even what a save would refuse
    commands, draw = Commands(capsys), random.Random(1)
    loaded, refused, tried = checkpoint.load(run.last), 0, 0
    for path in paths(loaded.state):
        for new in [..., *draw.sample(VALUES[1:], 4)]:
            checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, mutated(loaded.state, path, new)))
            for command in [*READING_COMMANDS, COMMANDS[0]]:
                refused += commands.run(command)[0] == 2
                tried += 1
    assert 0.5 < refused / tried < 1


def test_changed_arrays_of_a_checkpoint_with_a_valid_checksum_give_no_traceback(run, capsys):
    commands, draw = Commands(capsys), np.random.default_rng(2)
    loaded = checkpoint.load(run.last)
    for name, array in loaded.tensors.items():
        changes = [
            None,
            array[None],
            array.reshape(-1)[:0],
            array.astype(np.float64),
            array.astype(np.int16),
            np.full_like(array, np.nan) if array.dtype.kind == "f" else array + 1,
            np.full_like(array, 3e38) if array.dtype.kind == "f" else -array - 1,
            np.zeros((0, 2**40), np.int8),
        ]
        for new in changes:
            tensors = {key: value for key, value in loaded.tensors.items() if key != name}
            tensors |= {} if new is None else {name: new}
            checkpoint.save(run.last, checkpoint.Checkpoint(tensors, loaded.state))
            for command in draw.permutation(np.array(COMMANDS, object)):
                commands.run(list(command))


def test_changed_bytes_of_run_json_and_of_a_checkpoint_are_refused_or_change_nothing(run, capsys):
    commands, draw = Commands(capsys), random.Random(3)
    for file in (run.settings_file, run.last):
        valid, refused = file.read_bytes(), 0
        for number in range(300):
            broken = bytearray(valid)
            at = draw.randrange(len(broken))
            if number % 3 == 0:
                broken[at] ^= 1 << draw.randrange(8)
            elif number % 3 == 1:
                del broken[at : at + draw.randrange(1, 50)]
            else:
                broken[at:at] = draw.randbytes(draw.randrange(1, 9))
            file.write_bytes(broken)
            refused += commands.expect_refusal_or_the_same_output(COMMANDS[number % len(COMMANDS)])
            file.write_bytes(valid)
        assert refused > 150 if file == run.settings_file else refused == 300


def test_changed_headers_of_safetensors_files_are_refused_or_change_nothing(run, capsys):
    """The header is JSON. First its dtypes, shapes, offsets, names and metadata change, with a correct length field.
    Then only the length field changes."""
    commands, draw = Commands(capsys), random.Random(4)
    valid = run.last.read_bytes()
    size = struct.unpack("<Q", valid[:8])[0]
    header, data = json.loads(valid[8 : 8 + size]), valid[8 + size :]
    inner = json.loads(header["__metadata__"]["gpuconv"])
    texts = [json.dumps(mutated(header, path, new)) for path in paths(header) for new in draw.sample(VALUES, 8)]
    for path in paths(inner):
        for new in VALUES:
            metadata = {"gpuconv": json.dumps(mutated(inner, path, new))}
            texts.append(json.dumps(header | {"__metadata__": metadata}))
    texts += ["", "null", "[]", "{", '{"a": 1, "a": 2}', "[" * 10**6]
    texts.append(json.dumps(header | {"__metadata__": {"gpuconv": "[" * 10**6}}))
    for number, text in enumerate(texts):
        encoded = text.encode("utf-8", "surrogatepass")
        run.last.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
        commands.expect_refusal_or_the_same_output(COMMANDS[number % len(COMMANDS)])
    for length in (0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1):
        run.last.write_bytes(struct.pack("<Q", length) + valid[8:])
        for command in COMMANDS:
            assert commands.expect_refusal_or_the_same_output(command)


def test_a_folder_a_link_or_an_empty_file_in_place_of_a_file_is_refused(run, capsys):
    commands = Commands(capsys)
    for file in (run.settings_file, run.last):
        valid = file.read_bytes()
        file.unlink()
        for make in (file.mkdir, lambda file=file: file.symlink_to(file.name), lambda file=file: file.write_bytes(b"")):
            make()
            for command in COMMANDS:
                assert commands.expect_refusal_or_the_same_output(command)
            file.rmdir() if file.is_dir() else file.unlink()
        for command in COMMANDS:
            assert commands.expect_refusal_or_the_same_output(command)
        file.write_bytes(valid)
