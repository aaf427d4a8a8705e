"""The lab and `peaks` measure on the chosen GPU, and the lab's times exclude Python's overhead."""

from __future__ import annotations

import pytest

from gpuconv import lab, ops
from gpuconv.profiling import peaks
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
        (timing,) = lab.compare(path, "relu", "cuda:1", "fp32", repeats=3)
        with pytest.raises(ValueError, match="unknown dtype 'int8'"):
            next(lab.compare(path, "relu", "cuda:1", "int8"))
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
