"""`tools/kill_runs.py` knows every file that a run leaves in its folder."""

import pytest

from gpuconv.cli.main import main
from tools import kill_runs


def test_a_finished_run_holds_the_compared_files_and_the_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    assert main(["train", "--run-dir", str(folder), *kill_runs.RUN, "--epochs", "1"]) == 0
    assert {path.name for path in folder.iterdir()} == {*kill_runs.FILES, *kill_runs.PICTURES}
