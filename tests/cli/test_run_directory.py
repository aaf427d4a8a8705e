"""The run directory of gpuconv train: its name, what it holds, what is never overwritten, and the default one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest

from gpuconv.cli import main, run_settings
from tests.cli.small_run import train


def test_a_run_directory_holds_checkpoints_metrics_and_pictures(drawn_run):
    pytest.importorskip("matplotlib")
    names = {path.name for path in drawn_run.iterdir()}
    assert names == {
        "run.json",
        "config.toml",
        "last.safetensors",
        "best.safetensors",
        "metrics.jsonl",
        "metrics.csv",
        "curves.png",
        "activations.png",
        "filters.png",
    }
    assert all(path.stat().st_size > 10_000 for path in drawn_run.glob("*.png"))
    records = [json.loads(line) for line in (drawn_run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2]


def test_a_run_is_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert train("--epochs", 1) == 0
    assert sorted(os.listdir("runs")) == ["synthetic-seed-net-1", "synthetic-seed-net-2"]
    before = (tmp_path / "runs/synthetic-seed-net-1/last.safetensors").read_bytes()
    assert train("--epochs", 1, "--run-dir", "runs/synthetic-seed-net-1") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "runs/synthetic-seed-net-1/last.safetensors").read_bytes() == before


def test_a_new_run_takes_the_first_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = run_settings.with_recipe({"data": "synthetic:n=8", "model": "seed-net"})
    (tmp_path / "runs" / "synthetic-seed-net-2").mkdir(parents=True)
    for number in (1, 3):
        assert str(run_settings.new_directory(chosen)) == f"runs/synthetic-seed-net-{number}"


def test_the_same_seed_leaves_the_same_bytes(tmp_path, drawn_run):
    train("--epochs", 2, "--run-dir", tmp_path / "same")
    train("--epochs", 2, "--run-dir", tmp_path / "other", "--seed", 1)
    weights = drawn_run.joinpath("last.safetensors").read_bytes()
    assert (tmp_path / "same/last.safetensors").read_bytes() == weights
    assert (tmp_path / "other/last.safetensors").read_bytes() != weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my run", "it's  a run", "-run", "caf\udce9"], ids=repr)
def test_the_names_of_runs_in_printed_commands_are_quoted_for_the_shell(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert train("--epochs", 1, f"--run-dir={name}") == 0
    hints = [line for line in capfd.readouterr().out.splitlines() if "gpuconv evaluate" in line or "IMAGE" in line]
    assert train("--epochs", 1, f"--run-dir={name}") == 2
    hints += re.findall("`(.*?)`", capfd.readouterr().err)
    assert [hint[hint.index("gpuconv") :].split()[1] for hint in hints] == ["evaluate", "predict", "train"]
    for hint in hints:
        print_arguments = "gpuconv() { printf '%s\\0' \"$@\"; }; "
        shell = print_arguments + hint[hint.index("gpuconv") :]
        arguments = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, check=True).stdout.split(b"\0")
        assert arguments[-2].removeprefix(b"./") == os.fsencode(name)


@pytest.mark.usefixtures("pictures")
def test_a_full_disk_gives_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    calls, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: disk_full() if len(calls) > 10 else calls.append(sync(number)))
    monkeypatch.setattr("gpuconv.plots.saving.save", disk_full)  # must not hide the message
    assert train("--epochs", 9, "--run-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert re.search(
        r"^gpuconv: error: cannot write .*/run/(last\.safetensors|metrics\.csv): No space left on device", error
    )
    assert error.count("\n") == 1


def test_the_newest_run_is_the_default(tmp_path, monkeypatch, drawn_run, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 2
    assert "there is none in ./runs" in capsys.readouterr().err
    for number, name in enumerate(["newer", "older"]):
        shutil.copytree(drawn_run, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "last.safetensors", (0, 10_000 - number))
    assert main(["evaluate"]) == 0
    assert "runs/newer" in capsys.readouterr().out
