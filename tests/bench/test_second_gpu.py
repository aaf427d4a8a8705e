"""The benchmark times on the chosen GPU."""

from __future__ import annotations

import numpy as np
import pytest

from bench import entry_calls, our_side
from bench.record import Record
from bench.runner import run as bench_run
from bench.suite import Entry
from gpuconv.profiling.work import Ceilings, Work
from tests import standin
from tests.standin import made_up_times


@pytest.fixture(autouse=True)
def _gpuconv_has_its_own_functions_again():
    with standin.functions_restored():
        yield


@pytest.mark.parametrize("schedule", ["early", "late"])
def test_the_benchmark_times_on_the_second_gpu(schedule, monkeypatch, tmp_path):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
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
