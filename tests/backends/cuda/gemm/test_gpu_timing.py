"""Timing of runs on a GPU, with a stand-in for CuPy."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from gpuconv.backends.cuda.gemm import tuner


def test_runs_on_cupy_are_timed_between_two_events_behind_a_gate(monkeypatch):
    """The GPU is idle when the first run is queued. A host function in the stream, the gate, holds the runs back until
    all of them are queued."""
    queue, waiting = [], []

    class Event:
        def record(self):
            queue.append(self)

        def synchronize(self):
            queue.append("waited")
            waiting[0].join(5)
            assert not waiting[0].is_alive()

    class Stream:
        def launch_host_func(self, callback, argument):
            queue.append("gate")
            waiting.append(threading.Thread(target=callback, args=[argument]))
            waiting[0].start()

        def is_capturing(self):
            return True

    class Device:
        def __init__(self, index):
            assert index == 3

        def __enter__(self):
            queue.append("on device")

        def __exit__(self, *_):
            pass

        def synchronize(self):
            queue.append("idle")

    cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        get_current_stream=Stream,
        get_elapsed_time=lambda begin, end: 7.0 * (queue.index(end) - queue.index(begin) - 1),
        runtime=SimpleNamespace(getDeviceProperties=lambda index: {"name": b"Make-Believe"}),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    gpu = tuner.Gpu(3)
    assert gpu.model == "Make-Believe"
    assert gpu.capturing() is True
    queue.clear()

    def run():
        assert waiting[0].is_alive(), "the gate must still be closed"
        queue.append("run")

    assert gpu.seconds(run, 3) == pytest.approx(0.021)
    assert [entry for entry in queue if isinstance(entry, str)] == ["idle", "on device", "gate", *["run"] * 3, "waited"]

    def fails():
        raise RuntimeError("no such kernel")

    waiting.clear()
    with pytest.raises(RuntimeError, match="no such kernel"):
        gpu.seconds(fails, 1)
    waiting[0].join(0.1)
    assert not waiting[0].is_alive(), "the gate must open even if a run fails"
