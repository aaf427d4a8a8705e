"""The ceilings of a device: the rates of copies and of matrix products."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings


def test_the_ceilings_are_the_best_measurements(monkeypatch):
    timed = [("copy", "a", 8.0, 2.0), ("copy", "b", 8.0, 1.0), ("float32", "a", 100.0, 4.0)]
    monkeypatch.setattr(peaks, "_on_cpu", lambda: (each for each in timed))
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


def test_a_pytorch_without_cuda_does_not_measure_a_gpu(monkeypatch):
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    cupy = types.ModuleType("cupy")
    cupy.uint8, cupy.float32 = np.uint8, np.float32
    cupy.ones = lambda count, dtype: None
    cupy.random = types.SimpleNamespace(standard_normal=lambda size, dtype: np.ones(1, dtype))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(peaks, "_torch", lambda: torch)
    assert [library for _, library, _, _ in peaks._on_gpu()] == ["cuda", "cupy", "cupy", "cupy"]


def test_pytorchs_switch_for_tf32_is_restored_when_measuring_ends_early(monkeypatch):
    matmul = types.SimpleNamespace(allow_tf32=True)
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: True),
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=matmul)),
        randn=lambda *_, **__: types.SimpleNamespace(to=lambda dtype: None),
        **dict.fromkeys(("bfloat16", "float16", "float32", "float64")),
    )
    cupy = types.ModuleType("cupy")
    cupy.uint8, cupy.ones = np.uint8, lambda count, dtype: None
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(peaks, "_torch", lambda: torch)
    monkeypatch.setattr(peaks, "_on_cpu", peaks._on_gpu)

    def burst(call, seconds):
        if not matmul.allow_tf32:
            raise KeyboardInterrupt
        return {"wall": [1.0]}

    monkeypatch.setattr(peaks, "open_timer", lambda _: types.SimpleNamespace(burst=burst))
    with pytest.raises(KeyboardInterrupt):
        peaks.measure("numpy")
    assert matmul.allow_tf32 is True
