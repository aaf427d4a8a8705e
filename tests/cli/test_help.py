"""Help, the overview of all commands, and the version."""

from __future__ import annotations

import pytest

from gpuconv.cli import main
from gpuconv.cli.main import COMMANDS, module


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert f"usage: gpuconv {command}" in output
    examples = module(command).EXAMPLES
    title = "examples:" if len(examples) > 1 else "example:"
    assert output.endswith("\n".join([title, *(f"  {line}" for line in examples), ""]))
    assert examples[0].startswith(f"gpuconv {command}")


def test_help_needs_no_docstrings(capsys, monkeypatch):
    """python -OO drops them."""
    for command, text in COMMANDS.items():
        monkeypatch.setattr(module(command), "__doc__", None)
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert text in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_overview_names_every_command(arguments, capsys):
    assert main(arguments) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert lines[:5] == ["usage: gpuconv COMMAND [options]", "", "Train, inspect and use ConvNets.", "", "commands:"]
    assert lines[5:-4] == [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    assert lines[-1] == "  gpuconv train"


def test_version_prints_the_version(capsys):
    from gpuconv import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpuconv {__version__}\n"
