"""Options of `gpuconv train` beyond the recipe's: a part to validate on, weights to begin with, files of settings."""

from __future__ import annotations

import json

import pytest

from gpuconv import plots
from gpuconv.cli import main

pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

DATA = "synthetic:n=96,size=9x7x3,classes=4"
TINY = ["--data", DATA, "--model", "seed-net", "--batch-size", "32", "--device", "numpy"]


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise plots.PlotError("no pictures here")

    monkeypatch.setattr(plots, "save", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status
    out, err = capsys.readouterr()
    return err if status else out


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- a part to validate on -----------------------------------------------------------------------


def test_a_validation_part_judges_the_epochs_and_the_test_comes_once(work, capsys):
    out = said(capsys, "train", *TINY, "--epochs", 2, "--validation", 0.25, "--run-dir", "run")
    assert "72 images to train on, 24 to validate on, 19 to test on" in out
    assert "validation 0.25" in out
    epochs, test = metrics(work / "run")[:-1], metrics(work / "run")[-1]
    assert test["event"] == "test"
    assert all("validation_loss" in record and "test_loss" not in record for record in epochs)
    assert out.splitlines()[-1] == f"test accuracy {100 * test['test_accuracy']:.2f}%"
    before = (work / "run" / "last.safetensors").read_bytes()
    assert "test accuracy" in said(capsys, "train", "--resume", "run")
    assert metrics(work / "run")[-1] == test
    assert (work / "run" / "last.safetensors").read_bytes() == before
    assert "--validation is 0.25 there, 0.5 here" in said(
        capsys, "train", "--resume", "run", "--validation", 0.5, status=2
    )
    main(["evaluate", "run", "--device", "numpy"])
    out, err = capsys.readouterr()
    assert "warning" not in err  # the data is the run's
    assert f"test accuracy {100 * test['test_accuracy']:.2f}%" in out
    for wrong in ("1", "-0.1", "nan", "half"):
        assert f"expected a part from 0 to below 1, received '{wrong}'" in said(
            capsys, "train", *TINY, f"--validation={wrong}", status=2
        )
