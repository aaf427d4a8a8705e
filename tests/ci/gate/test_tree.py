"""The copy of the repository that the gate runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ci.gate import tree


def test_the_copy_of_the_tree_finds_its_kernels_without_an_installation(tmp_path, monkeypatch):
    home = tree.copy_repository(tmp_path / "out", tmp_path)
    monkeypatch.setattr(tree, "ROOT", home)
    (tmp_path / "second").mkdir()
    home = tree.copy_repository(tmp_path / "out", tmp_path / "second")  # a copy of a copy works the same
    code = "from gpuconv.backends.cuda.runtime import source; print(source.directory().resolve())"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(home)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == (home / "kernels").resolve()
    assert not (home / ".git").exists()


def test_runs_in_the_root_are_left_behind_and_those_of_the_tests_are_copied(tmp_path, monkeypatch):
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    for folder in ("gpuconv", "kernels", "runs/digits-1", "tests/fixtures/runs/old"):
        (root / folder).mkdir(parents=True)
    scratch.mkdir()
    monkeypatch.setattr(tree, "ROOT", root)
    home = tree.copy_repository(tmp_path / "out", scratch)
    assert (home / "tests" / "fixtures" / "runs" / "old").is_dir()
    assert not (home / "runs").exists()
