"""`gpuconv train --shadow` and `gpuconv shadow replay`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gpuconv import checkpoint, ops
from gpuconv.backends import cpu
from gpuconv.cli import main, shadow_report
from gpuconv.training.shadow import Row, Shadow
from gpuconv.verify.call import recording
from tests.cli.small_run import TINY_DATA

TINY = ["--data", TINY_DATA, "--model", "seed-net", "--device", "numpy", "--epochs", "1"]


def test_train_reports_the_number_of_checked_calls_and_keeps_to_the_share_of_time(work, capsys):
    assert main(["train", *TINY, "--shadow", "2%", "--run-dir", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["shadow"]
    assert result["seconds"] <= 0.02 * result["elapsed"]
    assert main(["train", *TINY, "--shadow", "0.02", "--run-dir", "other"]) == 0
    # 2 % of so short a run is too little time to check a call.
    assert "shadow oracle: 0 calls checked" in capsys.readouterr().out
    assert not Path("other/shadow.png").exists()


@pytest.mark.usefixtures("pictures")
def test_the_report_is_drawn_into_the_folder_of_the_run(work, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(Shadow, "report", lambda self: [Row("relu", "relu1", "forward", checked=3)])
    assert main(["train", *TINY, "--shadow", "2%", "--run-dir", "run"]) == 0
    assert Path("run/shadow.png").stat().st_size > 10_000
    assert "filters.png, shadow.png" in capsys.readouterr().out


def test_replay_says_whether_the_stored_and_the_repeated_results_are_wrong(work, capsys, monkeypatch):
    calls = []
    with recording(calls.append):
        ops.conv2d(np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 3, 2), np.float32))
    calls[0].results["result"][0, 1, 1, 2] += 1
    checkpoint.save("call.safetensors", calls[0].stored(layer="conv1", step=7))
    assert main(["shadow", "replay", "call.safetensors", "--device", "numpy"]) == 0
    output = capsys.readouterr().out
    assert "conv2d of conv1, step 7" in output
    assert "wrong: result[0, 1, 1, 2] is 19, expected 18" in output
    assert "different from those stored" in output
    correct = cpu.conv.conv2d

    def wrong(*arrays, **options):
        y = correct(*arrays, **options)
        y[0, 1, 1, 2] += 1
        return y

    monkeypatch.setattr(cpu.conv, "conv2d", wrong)
    assert main(["shadow", "replay", "call.safetensors", "--device", "numpy", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["same_bits"]
    assert [result["share"] > 1 for result in document["results"]] == [True, True]


def test_invalid_shares_and_files_are_refused_in_one_line(work, capsys):
    checkpoint.save("other.safetensors", checkpoint.Checkpoint({"net.x": np.zeros(3)}))
    for line, message in {
        "train --shadow 0": "expected a share above 0",
        "train --shadow 200%": "expected a share above 0",
        "train --shadow two": "expected a share above 0",
        "train --shadow 2% --on-violation halt": "invalid choice: 'halt'",
        "train --on-violation warn": "--on-violation warn is for --shadow, which is not given",
        "shadow": "required",
        "shadow repeat x": "invalid choice: 'repeat'",
        "shadow replay none.safetensors": "cannot read the checkpoint none.safetensors",
        "shadow replay other.safetensors": "holds no call of an op that a shadow oracle stored: it has no entry 'call'",
    }.items():
        capsys.readouterr()
        assert main(line.split()) == 2, line
        output = capsys.readouterr().err
        assert message in output, output
        assert output.count("\n") == 1


def test_a_rank_without_a_path_draws_nothing(work, capsys, monkeypatch):
    monkeypatch.setattr(Shadow, "report", lambda self: [Row("relu", "relu1", "forward", checked=3)])
    monkeypatch.setattr(Shadow, "picture", lambda self: pytest.fail("drawn"))
    watcher = Shadow(0.5)
    shadow_report.print_shadow(watcher, None)
    watcher.close()
    assert "shadow oracle: 3 calls checked" in capsys.readouterr().out
