"""Runs at the same time: a folder has one writer, and each run gets a folder of its own."""

from __future__ import annotations

import os
import re

import pytest

from gpuconv import checkpoint
from gpuconv.cli import main
from gpuconv.notices import Notice
from gpuconv.system import locks
from gpuconv.system.locks import LockFile
from gpuconv.training import Callback, CheckpointError
from tests import toy_run
from tests.cli.processes import gpuconv
from tests.cli.small_run import SMALL_BATCHES


def test_a_folder_in_use_by_another_process_is_refused_and_named(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lock = LockFile(run / "run.lock")
    assert main(["train", *SMALL_BATCHES, "--epochs", "1", "--run-dir", str(run)]) == 2
    output = capsys.readouterr().err
    assert re.fullmatch(
        rf"gpuconv: error: {run} is being written by process {os.getpid()} on \S+ since [^\n]+\n", output
    )
    assert [path.name for path in run.iterdir()] == ["run.lock"]
    lock.release()
    assert main(["train", *SMALL_BATCHES, "--epochs", "1", "--run-dir", str(run)]) == 0
    assert not (run / "run.lock").exists()
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    lock = LockFile(run / "run.lock")
    assert main(["train", "--resume", str(run)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0  # readers are not blocked
    lock.release()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_fit_holds_its_folder_until_it_returns_or_fails(tmp_path):
    class SecondWriter(Callback):
        """Tries to start and to resume the run that it watches."""

        def on_epoch(self, trainer, record):
            for resume in (False, True):
                with pytest.raises(CheckpointError, match=f"is being written by process {os.getpid()}"):
                    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", resume=resume)
            if trainer.epoch == 2:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[SecondWriter()])
    assert not (tmp_path / "run" / "run.lock").exists()
    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", resume=True)


def test_a_file_system_without_locks_gives_a_warning_and_is_used(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.warns(Notice, match="this file system has no locks"):
        toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1


def test_a_run_skips_numbers_in_use_and_a_refused_run_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # 66 images in batches of 5 leave one image, for which the last stage has 1 x 1 values: too few for batch norm.
    one_left_over = ["train", "--data", "synthetic:n=66,size=4x4x3", "--model", "resnet20", "--batch-size", "5"]
    assert main(one_left_over) == 2
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "synthetic-seed-net-1").mkdir(parents=True)
    (tmp_path / "runs" / "synthetic-seed-net-2").write_text("a file")
    (tmp_path / "runs" / "synthetic-seed-net-3").symlink_to("nowhere")
    assert main(["train", *SMALL_BATCHES, "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "synthetic-seed-net-4" / "last.safetensors").exists()
    assert os.listdir(tmp_path / "runs" / "synthetic-seed-net-1") == []


@pytest.mark.slow
def test_runs_started_at_once_get_separate_folders_and_only_one_gets_a_named_folder(tmp_path):
    runs = [gpuconv("train", *SMALL_BATCHES, "--epochs", "2", "--seed", seed, cwd=tmp_path) for seed in range(5)]
    assert [run.communicate(timeout=120)[1] for run in runs] == [""] * 5
    assert [run.returncode for run in runs] == [0] * 5
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == [f"synthetic-seed-net-{number}" for number in range(1, 6)]
    seeds = [checkpoint.load(folder / "last.safetensors").state["settings"]["seed"] for folder in folders]
    assert sorted(seeds) == list(range(5))
    for arguments in (["--run-dir", "one", *SMALL_BATCHES, "--epochs", "300"], ["--resume", "one"]):
        pair = [gpuconv("train", *arguments, cwd=tmp_path) for _ in range(2)]
        first, (status, error) = sorted((run.wait(120), run.communicate()[1]) for run in pair)
        assert first == (0, "")
        if status == 0:  # the second process resumed the run after the first had ended
            assert arguments[0] == "--resume"
        else:
            message = r"gpuconv: error: one (is being written by process \d+ on|already holds a run).*\n"
            assert re.fullmatch(message, error)
            assert status == 2
        assert not (tmp_path / "one" / "run.lock").exists()
