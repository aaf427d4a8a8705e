"""The logs of a run: metrics.jsonl and metrics.csv."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from gpuconv.training import Callback, CheckpointError, callbacks
from gpuconv.training.logs import CSVLog, JSONLog
from tests import toy_run


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


def test_the_module_callbacks_also_has_the_logs():
    assert (callbacks.CSVLog, callbacks.JSONLog) == (CSVLog, JSONLog)


def test_logs_hold_every_record(tmp_path):
    trainer = toy_run.trainer()
    history = toy_run.fit(trainer, run_dir=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == trainer.records
    table = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert table[0] == [key for key in history[0] if key != "event"]
    assert [float(value) for value in table[-1]] == [history[-1][key] for key in table[0]]
    assert len(table) == 4


def test_a_partial_log_line_is_removed_when_the_disk_is_full(tmp_path):
    """The system takes 9 bytes of the second line and refuses the rest, as a full disk does."""
    resource = pytest.importorskip("resource")
    log, (soft, hard) = tmp_path / "run" / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillUp(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 9, hard))

    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: File too large"):
            toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[FillUp()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2]


def test_the_table_gets_a_column_for_each_new_entry_but_lists_and_dictionaries(tmp_path):
    first = {"event": "epoch", "epoch": 1, "train_loss": 0.5, "counts": {"a": 1}, "rates": [1, 2]}
    second = {"event": "epoch", "epoch": 2, "train_loss": 0.25, "validation_loss": 1.5}
    third = {"event": "epoch", "epoch": 3, "train_loss": 0.125}
    table, again = CSVLog(tmp_path / "a.csv"), CSVLog(tmp_path / "b.csv")
    table.on_start(SimpleNamespace(records=[first]))
    for record in (second, third):
        table.on_epoch(None, record)
    assert table.path.read_text() == "epoch,train_loss,validation_loss\n1,0.5,\n2,0.25,1.5\n3,0.125,\n"
    again.on_start(SimpleNamespace(records=[first, second, third]))
    assert again.path.read_text() == table.path.read_text()
