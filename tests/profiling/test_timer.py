"""The timers of the CPU and of a GPU: bursts of calls, and marks."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import pytest

from gpuconv.profiling.timer import MAX_SAMPLES, CpuTimer, CudaTimer, open_timer


def test_the_cpu_timer_times_every_call_except_the_first():
    rounds = []

    def call(number):
        rounds.append(number)
        time.sleep(0.02 if len(rounds) == 1 else 0.001)

    (times,) = CpuTimer().burst(call, 0.008).values()
    assert rounds == [0, *range(len(times))]
    assert 3 <= len(times) <= MAX_SAMPLES
    assert min(times) >= 0.001
    assert len(CpuTimer().burst(lambda _: None, 0.0)["wall"]) == 3


class FakeGpu:
    """CuPy's interface to a fake GPU, whose queue runs in parallel with the host. Work takes a given time."""

    def __init__(self):
        self.done_at, self.host = 0.0, 0.0
        gpu = self

        class Device:
            def __init__(self, index):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def synchronize(self):
                gpu.host = max(gpu.host, gpu.done_at)

        class Event:
            def record(self):
                gpu.work(0)
                self.at = gpu.done_at

            def synchronize(self):
                gpu.host = max(gpu.host, self.at)

        class Memory:
            def copy_from_device_async(self, source, size, stream):
                gpu.work(0.5e-3)

        array = types.SimpleNamespace(data=Memory())
        cuda = types.SimpleNamespace(
            Device=Device,
            Event=Event,
            get_current_stream=lambda: None,
            get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at),
        )
        self.cupy = types.SimpleNamespace(cuda=cuda, ones=lambda *_: array, uint8="uint8")

    def work(self, seconds, host=0.0):
        """Queue work of the given length, which takes the host some time too."""
        self.host += host
        self.done_at = max(self.done_at, self.host) + seconds


@pytest.mark.parametrize(("device", "host"), [(2e-6, 30e-6), (400e-6, 30e-6), (20e-6, 3e-3)])
def test_the_cuda_timer_separates_device_time_from_host_time(monkeypatch, device, host):
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "cupy", gpu.cupy)
    monkeypatch.setattr(time, "perf_counter", lambda: gpu.host)
    seen = []

    def call(number):
        seen.append(number)
        gpu.work(device, host)

    samples = CudaTimer("cuda:0").burst(call, 0.05)
    assert set(samples) == {"wall", "host", "cold", "warm"}
    for column in ("cold", "warm"):  # the host's time is hidden, because the queue still has work
        np.testing.assert_allclose(samples[column], device, rtol=1e-6)
    np.testing.assert_allclose(samples["host"], host, rtol=1e-6)
    np.testing.assert_allclose(samples["wall"], max(device, host), rtol=0.4)
    assert len(set(seen)) >= 3


def test_marks_measure_device_time_while_the_device_is_held(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setitem(sys.modules, "cupy", gpu.cupy)
    monkeypatch.setattr(time, "perf_counter", lambda: gpu.host)
    timer = CudaTimer("cuda:0")

    def marks():
        recorded = [timer.mark()]
        for seconds in (2e-6, 5e-6):
            gpu.work(seconds, host=1e-3)
            recorded.append(timer.mark())
        return timer.seconds(recorded)

    timer.hold(3e-3)
    np.testing.assert_allclose(marks(), [0, 2e-6, 7e-6], rtol=1e-6)
    assert marks()[-1] > 1e-3  # the device is not held, so it waits for the host


def test_marks_of_the_cpu_measure_the_time_between_them():
    timer = CpuTimer()
    timer.hold(1.0)
    first = timer.mark()
    time.sleep(0.002)
    begin, end = timer.seconds([first, timer.mark()])
    assert begin == 0
    assert 0.002 <= end < 0.5


def test_the_emulated_device_has_no_timer():
    with pytest.raises(ValueError, match="says nothing about their speed"):
        open_timer("emulated")
