"""Each kind of fault that is planted in gpuconv's host code is found; without the fault the same work passes."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, ops
from gpuconv.backends.cuda.runtime import kernel
from tests import standin
from tests.standin import memory, streams
from tests.standin.errors import CUDADriverError, CUDARuntimeError

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def prepared_after_other_work():
    x, y, before = (gc.asarray(a, "cuda:0") for a in (X, np.zeros_like(X), 1 + X))
    recorder = backends.recorder("cuda:0")
    ops.relu(before, out=x)
    recorder.prepare(lambda: ops.relu(x, out=y))
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(1 + X, 0))


def without_a_wait_for_the_device(patch):
    import cupy

    patch.setattr(cupy.cuda.Device, "synchronize", lambda self: None)


def captured_with_a_temporary():
    x, y, other = (gc.asarray(a, "cuda:0") for a in (X, np.zeros_like(X), 1 + X))
    recorder, results = backends.recorder("cuda:0"), []

    def work():
        ops.relu(ops.relu(x), out=y)

    recorder.prepare(work)
    replay = recorder.capture(work)
    recorder.prepare(lambda: results.append(ops.relu(other)))
    replay()
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))
    np.testing.assert_array_equal(gc.to_numpy(results[0]), np.maximum(1 + X, 0))


def without_a_separate_pool(patch):
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
    recorder.prepare(lambda: ops.relu(x, out=y))
    recorder.capture(lambda: ops.relu(x, out=y))()
    np.testing.assert_array_equal(gc.to_numpy(y), np.maximum(X, 0))


def with_a_copy_in_an_op(patch):
    relu = ops.relu
    patch.setattr(ops, "relu", lambda x, out: gc.to_numpy(relu(x, out=out)))


# Muon updates parameters of these shapes in three batches. The pool gives their temporary arrays blocks of one size.
SHAPES = ((6, 5), (5, 6), (5, 2, 3), (6, 5))


def muon_on(device, capture):
    """Parameters and velocities after two steps, and the addresses of the arrays that each stream's kernels use."""
    rng, used = np.random.default_rng(1), {}
    lists = [[gc.asarray(rng.normal(size=shape).astype(np.float32), device) for shape in SHAPES] for _ in range(3)]
    launch = kernel.Kernel.__call__

    def step():
        ops.muon_step(*lists, lr=0.1, momentum=0.5)

    def recorded(run, grid, block, *arguments, **options):
        import cupy

        arrays = {argument.data.ptr for argument in arguments if isinstance(argument, cupy.ndarray)}
        used.setdefault(cupy.cuda.get_current_stream().ptr, set()).update(arrays)
        return launch(run, grid, block, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        if device != "emulated":
            patch.setattr(kernel.Kernel, "__call__", recorded)
        step()
        if capture:
            recorder = backends.recorder(device)
            used.clear()
            recorder.capture(step)()
        else:
            step()
    return [gc.to_numpy(x) for x in (*lists[0], *lists[2])], used


def updated_by_muon(capture=False):
    expected, _ = muon_on("emulated", capture)
    results, used = muon_on("cuda:0", capture)
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(used) == 3
    for one, other in itertools.combinations(used.values(), 2):
        assert not one & other


def captured_with_muon():
    updated_by_muon(capture=True)


def without_waiting_for_branches(patch):
    import cupy

    wait, current = cupy.cuda.Stream.wait_event, cupy.cuda.get_current_stream

    def wait_in_branches_only(stream, event):
        if stream.ptr != current().ptr:
            wait(stream, event)

    patch.setattr(cupy.cuda.Stream, "wait_event", wait_in_branches_only)


def with_branches_outside_of_the_graph(patch):
    import cupy

    wait, current = cupy.cuda.Stream.wait_event, cupy.cuda.get_current_stream

    def wait_outside_of_branches_only(stream, event):
        if stream.ptr == current().ptr:
            wait(stream, event)

    patch.setattr(cupy.cuda.Stream, "wait_event", wait_outside_of_branches_only)


def with_memory_shared_by_streams(patch):
    """A freed block of one branch is handed out to the next one."""
    malloc = memory.MemoryPool.malloc

    def of_the_default_stream(pool, size):
        with streams.Stream(null=True):
            return malloc(pool, size)

    patch.setattr(memory.MemoryPool, "malloc", of_the_default_stream)


@pytest.mark.parametrize(
    ("work", "plant", "error"),
    [
        (prepared_after_other_work, without_a_wait_for_the_device, AssertionError),
        (captured_with_a_temporary, without_a_separate_pool, AssertionError),
        (computed_on_both_gpus, with_one_module_for_all_gpus, CUDADriverError),
        (captured_and_replayed, with_a_copy_in_an_op, CUDARuntimeError),
        (updated_by_muon, without_waiting_for_branches, AssertionError),
        (captured_with_muon, without_waiting_for_branches, CUDARuntimeError),
        (captured_with_muon, with_branches_outside_of_the_graph, CUDARuntimeError),
        (updated_by_muon, with_memory_shared_by_streams, AssertionError),
        (captured_with_muon, with_memory_shared_by_streams, AssertionError),
    ],
    ids=[
        "a missing wait",
        "a block reused",
        "a module on the wrong device",
        "a copy inside a capture",
        "branches not waited for",
        "branches not joined",
        "branches not captured",
        "a block shared by branches",
        "a block shared by captured branches",
    ],
)
def test_the_planted_fault_is_found(work, plant, error, monkeypatch):
    for schedule in ("early", "late"):
        with standin.installed(("80", "90"), schedule=schedule):
            work()
    with standin.installed(("80", "90"), schedule="late"), monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(error):
            work()
