"""Shells read the commands that messages show."""

import os
import subprocess
from pathlib import Path

import pytest

from gpuconv.system import shell

NAMES = [
    b"run",
    b"my run",
    b"two  spaces",
    b" ends with a space ",
    b"it's",
    b'"quoted"',
    b"$HOME",
    b"`date`",
    b"a;b&c|d",
    b"*",
    b"~",
    b"caf\xe9",
    b"caf\xc3\xa9",
    b"new\nline",
    b"tab\there",
    b"\x1b[31mred",
    b"back\\slash",
    b"!history",
    b"#comment",
    b"-option",
    b"--help",
    b"\xff\xfe 'x'",
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_shell_reads_every_quoted_name_unchanged(encoding, monkeypatch):
    class Stdout:
        pass

    Stdout.encoding = encoding
    words = [Path(os.fsdecode(name)) for name in NAMES]
    monkeypatch.setattr(shell.sys, "stdout", Stdout)
    line = shell.command("printf", r"%s\0", *words)
    monkeypatch.undo()
    line.encode(encoding)
    assert line.isprintable()
    folded = " ".join(line.split())  # as in errors, which are printed on one line
    read = subprocess.run(["bash", "-c", folded], stdout=subprocess.PIPE, check=True).stdout
    assert [os.path.normpath(name) for name in read.split(b"\0")[:-1]] == NAMES
    assert b"./-option" in read


def test_plain_words_stay_plain_and_options_stay_options():
    assert shell.command("gpuconv", "train", "--resume", Path("runs/a-1")) == "gpuconv train --resume runs/a-1"
    assert shell.command("gpuconv", "train", "--data", "cifar10:my data") == "gpuconv train --data 'cifar10:my data'"
