"""The ceilings of a device: the rates of copies and of matrix products."""

from __future__ import annotations

import types

import pytest

from gpuconv.profiling import peaks
from gpuconv.profiling.work import Ceilings


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
