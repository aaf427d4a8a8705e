"""Two threads, one of which records or captures launches."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, ops
from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.profiling import launches
from tests import standin

pytestmark = pytest.mark.usefixtures("untimed")
X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def concurrently(work, other):
    """Run `work(during)`, and `other()` in another thread as soon as `work` calls `during()`. Returns the errors of
    both.

    `other` may have to wait until `work` is done."""
    begun, errors = threading.Event(), []

    def guarded(body, *arguments):
        try:
            body(*arguments)
        except Exception as error:
            errors.append(error)

    def do_other():
        begun.wait(10)
        guarded(other)

    thread = threading.Thread(target=do_other, daemon=True)
    thread.start()

    def during():
        begun.set()
        thread.join(0.3)

    guarded(work, during)
    thread.join(10)
    assert not thread.is_alive(), "the other thread must end"
    return errors


@pytest.mark.parametrize("device", ["cuda", "emulated"])
def test_threads_whose_streams_have_one_address_do_not_share_block_counters(device):
    """With CUPY_CUDA_PER_THREAD_DEFAULT_STREAM=1 the default streams of all threads have one address."""
    with standin.installed():
        x, counters = gc.asarray(X, device), []

        def ask(during=lambda: None):
            counters.append(block_counters(x))
            during()

        assert concurrently(ask, ask) == []
        assert counters[0] is not counters[1]


@pytest.mark.parametrize("device", ["cuda:1", "emulated"])
@pytest.mark.parametrize("action", ["synchronize", "compute", "prepare"])
def test_another_thread_does_not_disturb_a_capture(schedule, device, action):
    with standin.installed(("90", "90"), schedule=schedule):
        x, y, z = (gc.asarray(X, device) for _ in range(3))
        recorder, results = backends.recorder(device), []
        recorder.prepare(lambda: ops.relu(x, out=y))

        def capture(during):
            def step():
                ops.relu(x, out=y)
                during()

            results.append(recorder.capture(step))

        others = {
            "synchronize": lambda: backends.synchronize(device),
            "compute": lambda: results.append(gc.to_numpy(ops.relu(z))),
            "prepare": lambda: backends.recorder(device).prepare(lambda: ops.relu(z, out=z)),
        }
        assert concurrently(capture, others[action]) == []
        replay = next(result for result in results if callable(result))
        backends.assign(y, 0)
        replay()
        np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))
        for computed in (result for result in results if not callable(result)):
            np.testing.assert_array_equal(computed, np.maximum(X, 0))


def test_launches_of_another_thread_run_and_are_not_recorded(schedule):
    with standin.installed(("90",), schedule=schedule):
        x, recorded, results = gc.asarray(X, "cuda:0"), [], []

        def record(during):
            with launches.record_launches(execute=False) as in_this_thread:
                ops.relu(x)
                during()
            recorded.extend(in_this_thread)

        assert concurrently(record, lambda: results.append(gc.to_numpy(ops.relu(x)))) == []
        assert len(recorded) == 1
        np.testing.assert_array_equal(results[0], np.maximum(X, 0))
