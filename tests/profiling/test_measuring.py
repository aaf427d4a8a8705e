"""The tools of the benchmark and the profile: timer, launch counter, work of an operation, ceilings."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.profiling import launches, peaks
from gpuconv.profiling.timer import MAX_SAMPLES, CpuTimer, CudaTimer, open_timer
from gpuconv.profiling.work import Ceilings, Work, convolution
from gpuconv.verify.conv_problems import conv


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
    for column in ("cold", "warm"):  # without the host's time, during which the queue still has work
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


def test_launches_are_counted_by_kernel():
    x = gc.asarray(np.ones((2, 4, 4, 3), np.float32), "emulated")
    with launches.record_launches() as recorded:
        y = gc.ops.relu(x)
        gc.ops.relu_backward(y, y)
        gc.ops.relu(x)
    gc.ops.relu(x)  # after the context, so not counted
    rows = launches.table(recorded)
    assert [(row["kernel"], row["launches"]) for row in rows] == [("relu_forward", 2), ("relu_backward", 1)]
    assert (rows[0]["file"], rows[0]["algorithm"]) == ("activation.cu", None)
    assert rows[0]["macros"]["DTYPE"] == "float32"
    assert rows[0]["blocks"] * rows[0]["threads"] >= 96 / 4
    assert "registers" not in rows[0]


def test_launches_can_be_listed_without_running_anything():
    x = gc.asarray(-np.ones(8, np.float32), "emulated")
    with launches.record_launches(execute=False) as recorded:
        y = gc.ops.relu(x)
    assert [launch.kernel.name for launch in recorded] == ["relu_forward"]
    assert np.isnan(np.asarray(y)).all()  # poison: nothing was written


def test_a_kernels_registers_spills_and_occupancy_are_listed():
    pytest.importorskip("cuda.core")
    x = gc.asarray(np.ones(64, np.float32), "emulated")
    with launches.record_launches() as recorded:
        gc.ops.relu(x)
    (row,) = launches.table(recorded, "sm_90a")
    assert 0 < row["registers"] <= 255
    assert row["spilled"] == 0
    assert 0 < row["occupancy"] <= 1


def test_the_floor_of_work_is_the_longer_of_its_times_for_arithmetic_and_bytes():
    ceilings = Ceilings(10.0, {"float32": 100.0})
    assert Work(1000, 50).floor(ceilings, "float32") == 10
    assert Work(1000, 500).floor(ceilings, "float32") == 50
    assert Work(1000, 50).floor(ceilings, "float16") == 5  # without a known rate only the bytes count
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


def test_the_work_of_a_convolution_equals_that_counted_by_hand():
    problem = conv(2, 5, 6, 4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), groups=2)
    recorded = convolution(problem, itemsize=2)
    y_size = np.prod(problem.y_shape)
    assert recorded == Work(2 * y_size * 3 * 2 * 2, 2 * (2 * 5 * 6 * 4 + 6 * 3 * 2 * 2 + y_size))
    with pytest.raises(ValueError, match="fprop, dgrad or wgrad"):
        convolution(problem, itemsize=2, direction="forward")


def test_the_ceilings_are_the_best_measurements(monkeypatch):
    timed = [("copy", "a", 8.0, 2.0), ("copy", "b", 8.0, 1.0), ("float32", "a", 100.0, 4.0)]
    monkeypatch.setattr(peaks, "_on_cpu", lambda: iter(timed))
    monkeypatch.setattr(
        peaks, "open_timer", lambda _: types.SimpleNamespace(burst=lambda seconds, _: {"wall": [seconds] * 3})
    )
    ceilings, rows = peaks.measure("numpy")
    assert ceilings == Ceilings(8.0, {"float32": 25.0})
    assert [row["rate"] for row in rows] == [4.0, 8.0, 25.0]


@pytest.mark.slow
def test_ceilings_are_measured_on_this_machine():
    ceilings, rows = peaks.measure("numpy", seconds=0.0)
    assert 1e8 < ceilings.copy < 1e13
    assert 1e9 < ceilings.matrix["float64"] < ceilings.matrix["float32"] * 1.5
    assert all(len(row["samples"]["wall"]) == 3 for row in rows)
