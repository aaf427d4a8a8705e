"""Each kind of fault, planted in gpuconv's own host code, is found; without it the same work is right."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, ops
from gpuconv.backends.cuda.runtime import kernel
from tests import standin
from tests.standin.machine import CUDADriverError, CUDARuntimeError

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def prepared_after_other_work():
    x, y, before = (gc.asarray(a, "cuda:0") for a in (X, np.zeros_like(X), 1 + X))
    recorder = backends.recorder("cuda:0")
    ops.relu(before, out=x)
    recorder.prepare(lambda: discard(ops.relu(x, out=y)))
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(1 + X, 0))


def without_a_wait_for_the_device(patch):
    import cupy

    patch.setattr(cupy.cuda.Device, "synchronize", lambda self: None)


def captured_with_a_temporary():
    x, y, other = (gc.asarray(a, "cuda:0") for a in (X, np.zeros_like(X), 1 + X))
    recorder, kept = backends.recorder("cuda:0"), []

    def work():
        ops.relu(ops.relu(x), out=y)

    recorder.prepare(work)
    replay = recorder.capture(work)
    recorder.prepare(lambda: kept.append(ops.relu(other)))
    replay()
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))
    np.testing.assert_array_equal(gc.to_numpy(kept[0]), np.maximum(1 + X, 0))


def without_a_pool_of_its_own(patch):
    import cupy

    patch.setattr(cupy.cuda, "using_allocator", lambda allocator: contextlib.nullcontext())


def computed_on_both_gpus():
    for device in ("cuda:0", "cuda:1"):
        np.testing.assert_array_equal(gc.to_numpy(ops.relu(gc.asarray(X, device))), np.maximum(X, 0))


def with_one_module_for_all_gpus(patch):
    load = kernel.Module._on_gpu
    patch.setattr(kernel.Module, "_on_gpu", lambda self, device: load(self, 0))


def captured_and_replayed():
    x, y = gc.asarray(X, "cuda:0"), gc.asarray(np.zeros_like(X), "cuda:0")
    recorder = backends.recorder("cuda:0")
    recorder.prepare(lambda: discard(ops.relu(x, out=y)))
    recorder.capture(lambda: discard(ops.relu(x, out=y)))()
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


def with_a_copy_in_an_op(patch):
    relu = ops.relu
    patch.setattr(ops, "relu", lambda x, out: gc.to_numpy(relu(x, out=out)))


def discard(_):
    """Captured work returns nothing."""


@pytest.mark.parametrize(
    ("work", "plant", "found"),
    [
        (prepared_after_other_work, without_a_wait_for_the_device, AssertionError),
        (captured_with_a_temporary, without_a_pool_of_its_own, AssertionError),
        (computed_on_both_gpus, with_one_module_for_all_gpus, CUDADriverError),
        (captured_and_replayed, with_a_copy_in_an_op, CUDARuntimeError),
    ],
    ids=["a missing wait", "a block reused", "a module on the wrong device", "a copy inside a capture"],
)
def test_the_planted_fault_is_found(work, plant, found, monkeypatch):
    for schedule in ("early", "late"):
        with standin.installed(("80", "90"), schedule=schedule):
            work()
    with standin.installed(("80", "90"), schedule="late"), monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(found):
            work()
