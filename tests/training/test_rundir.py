"""A run directory is created once. A path that holds no valid run cannot be opened."""

import json
import os

import pytest

from gpuconv.system import files
from gpuconv.training import CheckpointError, RunDirectory


def test_a_new_run_stores_its_settings(tmp_path):
    run = RunDirectory.start(tmp_path / "runs" / "first", {"epochs": 3})
    assert RunDirectory.open(run.path).settings() == {"epochs": 3}
    assert json.loads(run.settings_file.read_text())["gpuconv"]


def test_a_folder_that_holds_a_run_is_refused_and_kept(tmp_path):
    RunDirectory.start(tmp_path, {"epochs": 3})
    with pytest.raises(FileExistsError, match="already holds a run; continue it with `gpuconv train --resume"):
        RunDirectory.start(tmp_path, {"epochs": 4})
    assert RunDirectory.open(tmp_path).settings() == {"epochs": 3}


def test_a_folder_with_only_a_checkpoint_is_refused_and_kept(tmp_path):
    (tmp_path / "last.safetensors").write_bytes(b"hours of work")
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunDirectory.start(tmp_path, {})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("last.safetensors", b"hours of work")]


def test_files_of_a_run_without_its_settings_are_not_overwritten(tmp_path):
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl", "metrics.csv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("kept")
        with pytest.raises(FileExistsError, match="already holds a run"):
            RunDirectory.start(tmp_path / name, {"epochs": 3})
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]


def test_a_folder_without_a_run_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        RunDirectory.open(tmp_path)


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for make in (RunDirectory, RunDirectory.open, lambda path: RunDirectory.start(path, {})):
        with pytest.raises(ValueError, match="a run directory needs a path, received ''"):
            make("")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("here first")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"cannot create the run directory .*file"):
            RunDirectory.start(path, {})
    assert (tmp_path / "file").read_text() == "here first"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files, "_make_file", read_only)
    with pytest.raises(CheckpointError, match=r"cannot write .*run\.json: Read-only file system"):
        RunDirectory.start(tmp_path / "run", {})


def test_another_format_version_is_named_whatever_else_the_file_holds(tmp_path):
    run = RunDirectory.start(tmp_path / "run", {})
    run.settings_file.write_text('{"format": 2, "config": {}}')
    with pytest.raises(CheckpointError, match="has format 2, this version of gpuconv reads 1"):
        run.settings()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": {}}', '{"format": 1}', '{"format": 7, "settings": {}}'])
def test_an_invalid_settings_file_is_refused(tmp_path, text):
    run = RunDirectory.start(tmp_path / "run", {})
    run.settings_file.write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        run.settings()


def test_settings_that_are_not_a_regular_file_are_refused_at_once(tmp_path):
    run = RunDirectory(tmp_path)
    os.mkfifo(run.settings_file)
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read: is not a regular file"):
        run.settings()


def test_a_lock_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "run" / "run.lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"cannot lock .*run\.lock: Is a directory"):
        RunDirectory(tmp_path / "run")._lock()


def test_states_saved_on_the_live_page_are_a_runs_own_files(tmp_path):
    run = RunDirectory(tmp_path / "run")
    for name, own in (("last.safetensors", True), ("saved-3.safetensors", True), ("net.safetensors", False)):
        assert run.has_own(run.path / name) == own
        assert not run.has_own(tmp_path / name)
