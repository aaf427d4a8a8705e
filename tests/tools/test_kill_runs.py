"""`tools/kill_runs.py` knows every file that a run leaves in its folder, and refuses bad options."""

import sys

import pytest

from gpuconv.cli.main import main
from tools import kill_runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "0"], "expected a whole number of at least 1, received '0'"),
        (["--result", "/nowhere/kills.json"], "--result: there is no folder /nowhere"),
    ],
    ids=["runs", "result"],
)
def test_bad_options_are_refused_before_a_run_starts(words, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kill_runs.py", *words])
    monkeypatch.setattr(kill_runs, "attack", lambda *arguments: pytest.fail("runs are started"))
    with pytest.raises(SystemExit):
        kill_runs.main()
    assert message in capsys.readouterr().err


def test_a_finished_run_holds_the_compared_files_and_the_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    assert main(["train", "--run-dir", str(folder), *kill_runs.RUN, "--epochs", "1"]) == 0
    assert {path.name for path in folder.iterdir()} == {*kill_runs.FILES, *kill_runs.PICTURES}
