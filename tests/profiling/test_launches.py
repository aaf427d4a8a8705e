"""Launches of kernels: how often each ran, with which registers and occupancy."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.backends.cuda.runtime.kernel import Kernel
from gpuconv.profiling import launches


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
    seen = []
    with launches.record_launches(execute=False, visit=lambda *launch: seen.append(launch)) as recorded:
        y = gc.ops.relu(x)
    assert [launch.kernel.name for launch in recorded] == ["relu_forward"]
    ((kernel, arguments),) = seen
    assert kernel is recorded[0].kernel
    assert [argument for argument in arguments if argument is x or argument is y]
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


def test_contexts_of_two_threads_may_overlap_without_nesting():
    launch, x = Kernel.__call__, gc.asarray(np.ones(8, np.float32), "emulated")
    began, ended, found = threading.Event(), threading.Event(), []

    def other():
        with launches.record_launches() as recorded:
            began.set()
            ended.wait(60)
            gc.ops.relu(x)
        found.extend(recorded)

    thread = threading.Thread(target=other)
    with launches.record_launches() as recorded:
        thread.start()
        began.wait(60)
    ended.set()
    thread.join()
    assert Kernel.__call__ is launch
    assert (len(recorded), len(found)) == (0, 1)


def test_inner_contexts_hide_only_launches_that_they_do_not_execute():
    x = gc.asarray(np.ones(8, np.float32), "emulated")
    with launches.record_launches() as outer:
        with launches.record_launches() as inner:
            gc.ops.relu(x)
        with launches.record_launches(execute=False) as unexecuted:
            gc.ops.relu(x)
    assert [len(found) for found in (outer, inner, unexecuted)] == [1, 1, 1]
