"""Progress bars of verify and kernels."""

from __future__ import annotations

import pytest

from gpuconv.cli import main
from gpuconv.system import console


class Bar(console._NoBar):
    """Keeps the options and the number of updates of every bar."""

    instances: list = []  # noqa: RUF012

    def __init__(self, **options):
        self.options, self.updates = options, 0
        self.instances.append(self)

    def update(self, count=1):
        self.updates += count

    def write(self, text):
        print(text)


@pytest.fixture
def bars(monkeypatch):
    Bar.instances = []
    for command in ("verify", "kernels"):
        monkeypatch.setattr(f"gpuconv.cli.{command}.progress_bar", Bar)
    return Bar.instances


def test_verify_and_kernels_show_progress_bars(bars, monkeypatch):
    from gpuconv import verify
    from gpuconv.backends.cuda.analysis import resources

    row = verify.run.Row("relu", "float32")
    case = next(case for case in verify.cases(("tiny",)) if case.op == "relu")
    row.outcomes = [verify.run.Outcome(case, "float32", 0.0, 1e-6, 0.0)]
    monkeypatch.setattr(verify, "verify", lambda *_: iter([row, row]))
    assert main(["verify", "--device", "numpy", "--op", "relu", "--dtype", "float32", "--dtype", "float16"]) == 0
    monkeypatch.setattr(resources, "jobs", lambda *_: [(None, "sm_80")] * 3)
    monkeypatch.setattr(resources, "report", lambda listed, workers: iter([[], [], []]))
    assert main(["kernels", "--report"]) == 0
    on_terminals = {"leave": False, "disable": None}  # tqdm: None disables the bar where there is no terminal
    assert [(bar.options, bar.updates) for bar in bars] == [
        ({"total": 2, "desc": "verify"} | on_terminals, 2),
        ({"total": 3, "desc": "compiling"} | on_terminals, 3),
    ]
