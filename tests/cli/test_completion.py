"""gpuconv --print-completion: the completion scripts of shells."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpuconv.cli import main
from tests.cli.command import stdout_of


def test_a_completion_script_names_commands_options_and_values(capsys):
    pytest.importorskip("shtab")
    for arguments in (["--print-completion", "bash"], ["--print-completion=bash"]):
        script = stdout_of(capsys, *arguments)
        for word in ("--early-stopping", "evaluate", "digits-net", "--json"):
            assert word in script
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert main(["--print-completion", "no-such-shell"]) == 2
    assert "takes bash, zsh" in capsys.readouterr().err
    assert main(["--print-completion", "bash", "zsh"]) == 2
    assert "received 'bash zsh'" in capsys.readouterr().err


def test_completion_without_shtab_is_refused_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "completion needs shtab: python -m pip install 'gpuconv[completion]'" in capsys.readouterr().err
