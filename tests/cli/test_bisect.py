"""`gpuconv train --digests` and `gpuconv bisect`."""

from __future__ import annotations

import pytest

from gpuconv import plots
from gpuconv.cli import main
from gpuconv.training.tensor_digests import read

TINY = ["--data", "synthetic:n=96,size=9x7x3,classes=4", "--model", "seed-net", "--device", "numpy", "--epochs", "1"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise plots.PlotError("no pictures here")

    monkeypatch.setattr(plots, "save", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_keeps_digests_in_the_run_or_a_file(work, capsys):
    assert main(["train", *TINY, "--run-dir", "run", "--digests", "--seed", "3"]) == 0
    assert main(["train", *TINY, "--run-dir", "other", "--digests", "file.jsonl", "--seed", "3"]) == 0
    assert read("run/digests.jsonl") == read("file.jsonl")
    assert len(read("file.jsonl")) > 0
    assert main(["train", "--resume", "run", "--digests", "--device", "numpy"]) == 0
    assert read("run/digests.jsonl") == read("file.jsonl")
    capsys.readouterr()
    assert main(["train", *TINY, "--digests", "no/folder.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "no/folder.jsonl" in said
    assert said.count("\n") == 1
