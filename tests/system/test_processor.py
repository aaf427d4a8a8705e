"""The number of cores."""

from __future__ import annotations

from gpuconv.system import processor


def test_only_cores_that_this_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(processor.os, "sched_getaffinity", {0: {1, 4, 5}}.get, raising=False)
    monkeypatch.setattr(processor.os, "cpu_count", lambda: 8)
    assert processor.available_cores() == 3
    monkeypatch.delattr(processor.os, "sched_getaffinity")
    assert processor.available_cores() == 8
    monkeypatch.setattr(processor.os, "cpu_count", lambda: None)
    assert processor.available_cores() == 1
