"""The logs of a run: metrics.jsonl and metrics.csv."""

from __future__ import annotations

import json
from types import SimpleNamespace

from gpuconv.training import callbacks
from gpuconv.training.logs import CSVLog, JSONLog


def test_logs_are_rewritten_at_the_start_and_then_grow(tmp_path):
    records = [{"event": "step", "step": 1, "loss": 0.5}, {"event": "epoch", "epoch": 1, "step": 2, "train_loss": 0.25}]
    table, lines = CSVLog(tmp_path / "a.csv"), JSONLog(tmp_path / "a.jsonl")
    for log in (table, lines):
        log.path.write_text("left by a killed process\n")
        log.on_start(SimpleNamespace(records=records))
        log.on_step(None, None)
        log.on_step(None, {"event": "step", "step": 3, "loss": 0.125})
        log.on_epoch(None, {"event": "epoch", "epoch": 2, "step": 4, "train_loss": 0.125})
    assert table.path.read_text() == "epoch,step,train_loss\n1,2,0.25\n2,4,0.125\n"
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == [1, 2, 3, 4]
    assert json.loads(lines.path.read_text().splitlines()[0]) == records[0]


def test_the_logs_are_also_names_of_callbacks():
    assert (callbacks.CSVLog, callbacks.JSONLog) == (CSVLog, JSONLog)
