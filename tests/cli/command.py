"""Runs commands within a test."""

from __future__ import annotations

from gpuconv.cli import main


def output_of(capsys, *arguments, status=0) -> str:
    """What a command prints to stdout and stderr. With status 2, stderr must be exactly one line with an error."""
    capsys.readouterr()
    ended = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert ended == status, out + err
    if status == 2:
        assert err.startswith("gpuconv: error: "), err
        assert err.count("\n") == 1, err
    return out + err


def stdout_of(capsys, *arguments, status=0) -> str:
    """What a command prints to stdout."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr().out


def on_numpy(capsys, *arguments, status=0) -> str:
    return output_of(capsys, *arguments, "--device", "numpy", status=status)
