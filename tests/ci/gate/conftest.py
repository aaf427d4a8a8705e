"""A gate in a temporary folder, and one that runs no commands."""

from __future__ import annotations

import pytest

from ci.gate import commands
from ci.gate.commands import Done, Gate


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "GRACE", 1)
    for name in ("out", "home", "logs"):
        (tmp_path / name).mkdir()
    return Gate(tmp_path / "out", tmp_path / "home", tmp_path / "logs", commit="abc")


class PreparedGate(Gate):
    """A gate that records commands instead of running them. prepare(word=(status, output)) sets the status and the
    output of the commands that contain the word; all other commands have status 0 and no output."""

    def prepare(self, **endings: tuple[int, str]):
        self.endings, self.commands_run, self.environments = endings, [], []
        return self

    def run(self, log, command, seconds, **environment):
        self.commands_run.append(list(command))
        self.environments.append(environment)
        code, output = next((end for word, end in self.endings.items() if word in " ".join(command)), (0, ""))
        return Done(code, output, 1.0, late=code == 124)


@pytest.fixture
def prepared(gate):
    return PreparedGate(gate.out, gate.home, gate.logs, "cuda", "abc").prepare()
