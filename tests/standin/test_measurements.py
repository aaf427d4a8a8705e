"""The lab, `peaks` and the benchmark measure on the chosen GPU, and the lab's times exclude Python's overhead."""

from __future__ import annotations

import numpy as np
import pytest

from bench import entry_calls, our_side
from bench.record import Record
from bench.runner import run as bench_run
from bench.suite import Entry
from gpuconv import lab, ops
from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings, Work
from tests import standin
from tests.standin import made_up_times
from tests.standin.machine import SimulatedTime

pytestmark = pytest.mark.usefixtures("untimed")


def test_the_lab_times_kernels_without_python_overhead(schedule, monkeypatch, tmp_path):
    path, relu, simulated = tmp_path / "my.cu", ops.relu, SimulatedTime()
    path.write_text(lab.template("relu"))
    tiny = lab.cases_of("relu", None, ("tiny",))[:1]

    def slow(*arguments, **options):
        simulated.sleep(2e-3)
        return relu(*arguments, **options)

    monkeypatch.setattr(ops, "relu", slow)
    monkeypatch.setattr(lab, "cases_of", lambda *_: tiny)
    monkeypatch.setattr("gpuconv.profiling.timer._DELAY_BYTES", 1 << 16)  # on the stand-in the host copies these bytes
    with standin.installed(("90", "90"), schedule=schedule) as gpus:
        gpus.kernel_seconds, gpus.copy_rate, gpus.time = 2e-4, 1e7, simulated
        (timing,) = lab.compare(path, "relu", "cuda:1", "float32", repeats=3)
    assert timing.yours == pytest.approx(0.2)
    assert timing.shipped == pytest.approx(0.2)


def test_the_ceilings_of_the_second_gpu_are_measured_on_it(schedule, monkeypatch):
    used = []

    def on_gpu():
        import cupy

        source, target = cupy.zeros(64, cupy.uint8), cupy.zeros(64, cupy.uint8)
        used.append(source.device.id)
        yield "copy", "cuda", 128.0, lambda _: target.fill(1)

    with standin.installed(("90", "90"), schedule=schedule), made_up_times.installed(), monkeypatch.context() as patch:
        patch.setattr(peaks, "_on_gpu", on_gpu)
        peaks.measure("cuda:1")
    assert used == [1]


def test_the_benchmark_times_on_the_second_gpu(schedule, tmp_path):
    entry = Entry("memory", "relu", "small", "float32", (1, 2, 2, 8), Work(0.0, 256.0))
    with standin.installed(("90", "90"), schedule=schedule) as machine, made_up_times.installed():
        record = Record(tmp_path / "record.json", {"entries": [], "not reached": []})
        ceilings = Ceilings(1e9, {})
        (timed,) = bench_run(
            [entry], record, "cuda:1", made_up_times.Timer("cuda:1"), ceilings, make_sides=sides_of_gpuconv
        )
    assert [(side["name"], side["status"]) for side in timed["sides"]] == [("gpuconv", "timed"), ("copy", "timed")]
    assert {device for _, device in machine.launches} == {1}


def sides_of_gpuconv(entry, device, compiled):
    call = entry_calls.call(entry)
    arrays = call.make(np.random.default_rng(0))
    return our_side.sides(call, arrays, device), lambda results: call.compare(arrays, results)
