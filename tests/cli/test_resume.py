"""gpuconv train --resume: stored settings, settings that differ, a finished run, and the bytes after an interrupt."""

from __future__ import annotations

import json
import re
import shutil
import signal

import pytest

from gpuconv.cli import main, runs
from tests.cli.processes import gpuconv, wait_for
from tests.cli.small_run import TINY_DATA, TINY_RUN, last_line, train


def test_resume_refuses_other_settings_and_names_them(drawn_run, capsys):
    before = {path: path.read_bytes() for path in drawn_run.iterdir()}
    assert main(["train", "--resume", str(drawn_run), "--epochs", "5", "--lr", "0.5", "--model", "seed-net"]) == 2
    output = capsys.readouterr().err
    assert "--epochs is 2 there, 5 here" in output
    assert "--lr is " in output
    assert f"a new run; one that begins with the weights of this run takes --weights {drawn_run})" in output
    assert "--model" not in output
    assert {path: path.read_bytes() for path in drawn_run.iterdir()} == before


def test_resume_refuses_another_validation_part(tmp_path, capsys):
    run = tmp_path / "run"
    assert train("--epochs", 1, "--validation", 0.25, "--run-dir", run) == 0
    assert main(["train", "--resume", str(run), "--validation", "0.5"]) == 2
    assert "--validation is 0.25 there, 0.5 here" in capsys.readouterr().err


def test_a_resumed_run_takes_no_recipe(capsys):
    assert main(["train", "--resume", "somewhere", "--recipe", "airbench94"]) == 2
    assert "leave --recipe out" in capsys.readouterr().err


def test_the_recipe_of_a_file_is_compared_with_that_of_the_resumed_run(tmp_path, capsys):
    file, run = tmp_path / "run.toml", tmp_path / "run"
    options = ["train", "--device", "numpy", "--config", str(file)]
    file.write_text(f'recipe = "digits-net"\nepochs = 1\ndata = "{TINY_DATA}"\n')
    assert main([*options, "--run-dir", str(run)]) == 0
    assert main([*options, "--resume", str(run)]) == 0
    file.write_text('recipe = "airbench94"\nepochs = 1\n')
    capsys.readouterr()
    assert main([*options, "--resume", str(run)]) == 2
    assert "--model is digits-net there, airbench94 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", -1, "--epochs: expected a whole number of at least 1, received '-1'"),
        ("epochs", "2", "--epochs must be int, received '2'"),
        ("batch_size", None, "--batch-size: expected a whole number of at least 1, received 'None'"),
        ("model", None, "--model must be str, received None"),
        ("lr", 0, "--lr: expected a number above 0, received '0'"),
        ("optimizer", "adm", "did you mean 'adam'?"),
    ],
)
def test_invalid_stored_settings_are_named(drawn_run, tmp_path, capsys, name, value, message):
    run = tmp_path / "run"
    shutil.copytree(drawn_run, run)
    content = json.loads((run / "run.json").read_text())
    content["settings"]["options"]["command"][name] = value
    (run / "run.json").write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main(["train", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"the settings stored in {run / 'run.json'} cannot be used: options.command: " in error
    assert message in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_another_spelling_of_the_model_and_another_checkpoint_interval_are_accepted(drawn_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(drawn_run, run)
    assert main(["train", "--resume", str(run), "--model", "Seed_Net", "--checkpoint-every", "2"]) == 0
    assert runs.settings_to_resume(str(run), {}).model == "seed-net"
    content = json.loads((run / "run.json").read_text())
    content["settings"]["options"]["command"]["model"] = "Seed_Net"
    (run / "run.json").write_text(json.dumps(content))
    assert runs.settings_to_resume(str(run), {"model": "seed-net"}).model == "Seed_Net"


def test_resuming_a_finished_run_prints_its_result(drawn_run, tmp_path, capsys):
    run = shutil.copytree(drawn_run, tmp_path / "run")
    assert main(["train", "--resume", str(run)]) == 0
    assert re.fullmatch(r"test accuracy \d+\.\d\d%", last_line(capsys))


@pytest.mark.slow
def test_a_resumed_run_whitens_its_filters_only_if_it_has_no_checkpoint(tmp_path, monkeypatch):
    from gpuconv import models

    seen = []
    monkeypatch.setattr(models, "whiten", lambda net, images: seen.append(images.shape))
    run = tmp_path / "run"
    assert train("--epochs", 1, "--whiten", 7, "--run-dir", run) == 0
    assert seen.pop() == (7, 9, 7, 3)
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert seen == []
    for path in run.iterdir():  # as if it had been killed before its first checkpoint
        if path.name != "run.json":
            path.unlink()
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert seen == [(7, 9, 7, 3)]
    assert train("--epochs", 1, "--run-dir", tmp_path / "plain") == 0
    assert len(seen) == 1


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_gives_the_same_bytes(tmp_path):
    run = tmp_path / "my run"
    process = gpuconv("train", *TINY_RUN, "--epochs", 60, "--run-dir", run)
    wait_for(run / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"gpuconv train --resume '{run}'" in output
    assert "Traceback" not in output
    assert main(["train", "--resume", str(run), "--device", "numpy"]) == 0
    assert train("--epochs", 60, "--run-dir", tmp_path / "uninterrupted") == 0
    resumed, uninterrupted = (folder / "last.safetensors" for folder in (run, tmp_path / "uninterrupted"))
    assert resumed.read_bytes() == uninterrupted.read_bytes()
