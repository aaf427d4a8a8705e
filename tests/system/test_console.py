"""Lines on stderr that cannot be written, and progress bars on terminals and in notebooks."""

from __future__ import annotations

import contextlib
import os
import sys
import types

import pytest

from gpuconv.system import console
from gpuconv.system.console import say, say_in_handler


def test_writing_into_a_full_closed_or_missing_stderr_neither_blocks_nor_raises(monkeypatch):
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            os.write(write, b"x" * 65536)  # until the pipe is full
    os.set_blocking(write, True)
    with open(write, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        say_in_handler("nobody")
        os.close(read)
        say_in_handler("nobody")
        say("nobody")
        monkeypatch.setattr(sys, "stderr", None)
        say_in_handler("nobody")
        say("nobody")
        monkeypatch.undo()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), write)  # `full` still holds data, which goes to os.devnull when `full` is closed


@pytest.fixture
def notebook(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_bars_are_shown_in_a_notebook(notebook, monkeypatch, capsys):
    assert console.in_notebook()
    with console.progress_bar(total=3, disable=None, leave=False) as bar:
        assert not bar.disable
    assert "0/3" in capsys.readouterr().out  # notebooks show stderr on red, and the lines of epochs are on stdout
    assert console.progress_bar(total=3, disable=True).disable
    module = types.ModuleType("tqdm.notebook")
    module.tqdm = lambda **options: options
    monkeypatch.setitem(sys.modules, "tqdm.notebook", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ipywidgets")
    assert console.progress_bar(total=3, disable=None) == {"total": 3, "disable": False}


def test_outside_notebooks_bars_are_shown_only_on_terminals(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not console.in_notebook()
    assert console.progress_bar(total=3, disable=None).disable  # stderr is captured
