"""The stand-in finds violations of CUDA's rules: each test breaks one of them, or shows that correct code runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from tests import standin
from tests.standin.errors import CUDADriverError, CUDARuntimeError
from tests.standin.machine import SimulatedTime

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


@pytest.fixture
def machine(schedule):
    with standin.installed(("90", "90"), schedule=schedule) as machine:
        yield machine


@pytest.fixture
def late():
    with standin.installed(("90", "90"), schedule="late") as machine:
        yield machine


def cupy():
    import cupy

    return cupy


def test_a_kernel_gives_numpys_results(machine):
    np.testing.assert_array_equal(gc.to_numpy(ops.relu(gc.asarray(X, "cuda:0"))), np.maximum(X, 0))
    assert machine.launches == [("relu_forward", 0)]


def test_freeing_memory_during_a_kernel_does_not_start_the_work_queued_after_it(late):
    cp = cupy()
    queue, memory, order = cp.cuda.get_current_stream().queue, [cp.cuda.Memory(64)], []

    def collects_garbage():
        memory.clear()
        order.append("first")

    queue.push(collects_garbage)
    queue.push(lambda: order.append("second"))
    queue.synchronize()
    assert order == ["first", "second"]


def test_a_missing_wait_between_streams_is_detected(late):
    cp = cupy()
    a, writer, reader = cp.zeros(4), cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    cp.cuda.get_current_stream().synchronize()
    with writer:
        a.fill(1)
        event = writer.record()
    with reader:
        before_the_wait = a.get()
        reader.wait_event(event)
        after_the_wait = a.get()
    assert (before_the_wait == 0).all()
    assert (after_the_wait == 1).all()


def test_the_legacy_stream_waits_only_for_blocking_streams(late):
    cp = cupy()
    blocking, non_blocking = cp.zeros(4), cp.zeros(4)
    cp.cuda.get_current_stream().synchronize()
    with cp.cuda.Stream():
        blocking.fill(1)
    with cp.cuda.Stream(non_blocking=True):
        non_blocking.fill(1)
    assert (blocking.get() == 1).all()
    assert (non_blocking.get() == 0).all()


def test_a_freed_block_is_reused_and_poisoned(late):
    cp = cupy()
    other = cp.cuda.Stream(non_blocking=True)
    a = cp.zeros(4)
    address = a.data.ptr
    with other:
        b = cp.empty(4)
        b[...] = a  # queued on another stream, where it runs after `del a`
    del a
    c = cp.empty(4)
    assert c.data.ptr == address
    cp.cuda.get_current_stream().synchronize()
    with other:
        assert np.isnan(b.get()).all()


def test_a_freed_block_is_not_reused_by_another_stream(late):
    cp = cupy()
    a = cp.zeros(4)
    address = a.data.ptr
    del a
    with cp.cuda.Stream():
        assert cp.empty(4).data.ptr != address


def test_an_array_or_stream_of_another_device_than_the_current_one_is_refused(machine):
    cp = cupy()
    with cp.cuda.Device(1):
        a = cp.zeros(4)
    b = cp.zeros(4)
    for use in (lambda: a.fill(1), lambda: a.__setitem__(..., b), lambda: b.__setitem__(..., a), a.copy):
        with pytest.raises(ValueError, match="resides \\(1\\)"):
            use()
    stream = cp.cuda.Stream()
    with cp.cuda.Device(1), pytest.raises(RuntimeError, match="belongs to device 0"):
        stream.__enter__()


def test_a_new_stream_has_the_address_of_a_deleted_one(machine):
    first, second = cupy().cuda.Stream(), cupy().cuda.Stream()
    address = first.ptr
    assert address != second.ptr
    del first
    assert cupy().cuda.Stream().ptr == address


def test_a_module_for_another_architecture_is_refused():
    from gpuconv.backends.cuda.runtime import nvrtc

    text = 'extern "C" __global__ void k(float* a) { a[0] = 1.0f; }'
    with standin.installed(("80", "89", "90")):
        cp = cupy()
        module = cp.RawModule(path=nvrtc.compile_cubin("k", text, {}, "sm_80").path)
        with cp.cuda.Device(1):
            module.get_function("k")  # compute capability 8.9 runs code for 8.0
        with cp.cuda.Device(2), pytest.raises(CUDADriverError, match="sm_80 on compute capability 90"):
            module.get_function("k")


def test_a_copy_to_the_host_invalidates_a_capture(machine):
    cp = cupy()
    stream = cp.cuda.Stream()
    with stream:
        a = cp.zeros(4)
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match="StreamCaptureUnsupported"):
            a.get()
        with pytest.raises(CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


def test_work_on_the_legacy_stream_invalidates_the_capture_of_a_blocking_one(machine):
    cp = cupy()
    stream, a = cp.cuda.Stream(), cp.zeros(4)
    with stream:
        stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="Implicit"):
        a.fill(1)
    with pytest.raises(CUDARuntimeError, match="Invalidated"):
        stream.end_capture()


def test_a_branch_that_no_stream_waits_for_makes_a_capture_invalid(machine):
    cp = cupy()
    origin, branch = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    a = cp.zeros(4)
    cp.cuda.Device().synchronize()
    with origin:
        origin.begin_capture()
        branch.wait_event(origin.record())
        with branch:
            a.fill(1)
        with pytest.raises(CUDARuntimeError, match="StreamCaptureUnjoined"):
            origin.end_capture()


@pytest.fixture
def capturing(machine):
    """A stream in capture, two streams for branches, and an array."""
    cp = cupy()
    origin, *branches = (cp.cuda.Stream(non_blocking=True) for _ in range(3))
    a = cp.zeros(4)
    cp.cuda.Device().synchronize()
    with origin:
        origin.begin_capture()
        yield origin, *branches, a


def test_work_of_a_branch_after_the_event_that_is_waited_for_is_unjoined(capturing):
    origin, branch, _, a = capturing
    branch.wait_event(origin.record())
    with branch:
        a.fill(1)
        event = branch.record()
        a.fill(2)
    origin.wait_event(event)
    with pytest.raises(CUDARuntimeError, match="StreamCaptureUnjoined"):
        origin.end_capture()


def test_a_branch_that_only_an_unjoined_branch_waits_for_is_unjoined(capturing):
    origin, first, second, a = capturing
    first.wait_event(origin.record())
    with first:
        a.fill(1)
    second.wait_event(first.record())
    with pytest.raises(CUDARuntimeError, match="StreamCaptureUnjoined"):
        origin.end_capture()


def test_a_branch_may_be_joined_by_way_of_another_and_record_events_that_nobody_waits_for(capturing):
    origin, first, second, a = capturing
    first.wait_event(origin.record())
    with first:
        a.fill(1)
    second.wait_event(first.record())
    origin.wait_event(second.record())
    first.record()
    second.record()
    origin.end_capture().launch()
    assert (a.get() == 1).all()


@pytest.mark.parametrize("recorded", ["on another stream", "on its own stream before the capture"])
def test_a_captured_stream_cannot_wait_for_an_event_outside_of_the_capture(machine, recorded):
    cp = cupy()
    origin, other = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    event = (other if "another" in recorded else origin).record()
    with origin:
        origin.begin_capture()
        with pytest.raises(CUDARuntimeError, match="StreamCaptureIsolation"):
            origin.wait_event(event)
        with pytest.raises(CUDARuntimeError, match="Invalidated"):
            origin.end_capture()


def test_a_captured_stream_cannot_wait_for_an_event_of_another_capture(machine):
    streams = [cupy().cuda.Stream(non_blocking=True) for _ in range(2)]
    for stream in streams:
        stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="StreamCaptureMerge"):
        streams[0].wait_event(streams[1].record())
    for stream in streams:
        with pytest.raises(CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


def test_an_event_of_a_capture_cannot_be_waited_for_after_it(machine):
    stream, other = (cupy().cuda.Stream(non_blocking=True) for _ in range(2))
    stream.begin_capture()
    event = stream.record()
    stream.end_capture()
    with pytest.raises(CUDARuntimeError, match="CapturedEvent"):
        other.wait_event(event)


def test_a_copy_to_the_host_in_a_branch_invalidates_the_capture(capturing):
    origin, branch, _, a = capturing
    branch.wait_event(origin.record())
    with branch, pytest.raises(CUDARuntimeError, match="StreamCaptureUnsupported"):
        a.get()
    with pytest.raises(CUDARuntimeError, match="Invalidated"):
        origin.end_capture()


def test_the_legacy_stream_cannot_be_captured(machine):
    with pytest.raises(RuntimeError, match="default"):
        cupy().cuda.get_current_stream().begin_capture()


def test_a_graph_writes_to_the_addresses_of_its_capture(late):
    cp = cupy()
    stream = cp.cuda.Stream()
    with stream:
        a = cp.zeros(4)
        stream.begin_capture()
        a.fill(1)
        graph = stream.end_capture()
        assert (a.get() == 0).all()  # captured, not run
        address = a.data.ptr
        del a
        b = cp.zeros(4)
        assert b.data.ptr == address
        graph.launch()
        assert (b.get() == 1).all()


@pytest.mark.parametrize(("capability", "most_bytes"), [("75", 64 * 1024), ("86", 99 * 1024), ("90", 227 * 1024)])
def test_shared_memory_is_limited_by_the_architecture(capability, most_bytes):
    from gpuconv.backends.cuda.runtime import nvrtc

    text = 'extern "C" __global__ void k(float* a) { a[0] = 1.0f; }'
    with standin.installed((capability,)):
        kernel = cupy().RawModule(path=nvrtc.compile_cubin("k", text, {}, f"sm_{capability}").path).get_function("k")
        kernel.max_dynamic_shared_size_bytes = most_bytes
        with pytest.raises(CUDADriverError, match="INVALID_VALUE"):
            kernel.max_dynamic_shared_size_bytes = most_bytes + 1


def test_work_without_a_wait_runs_at_the_end():
    calls = []
    with standin.installed(schedule="late"):
        cupy().cuda.get_current_stream().launch_host_func(calls.append, 1)
        assert calls == []
    assert calls == [1]


def test_events_measure_gpu_time_and_not_host_time(machine):
    cp, machine.kernel_seconds, machine.copy_rate = cupy(), 1e-3, 1e6
    machine.time = SimulatedTime()
    x, source = gc.asarray(X, "cuda:0"), cp.zeros(2500)  # 20 ms to copy
    y, target = ops.relu(x), cp.zeros(2500)
    cp.cuda.get_current_stream().synchronize()
    marks = [cp.cuda.Event() for _ in range(3)]
    marks[0].record()
    target.data.copy_from_device_async(source.data, target.nbytes)
    marks[1].record()
    for _ in range(4):
        ops.relu(x, out=y)
        machine.time.sleep(1e-3)  # the host sleeps while the GPU still copies
    marks[2].record()
    marks[2].synchronize()
    copy_time, kernel_time = (cp.cuda.get_elapsed_time(*pair) for pair in itertools.pairwise(marks))
    assert copy_time == pytest.approx(20)
    assert kernel_time == pytest.approx(4)


def captured_copies(between):
    """Captures and replays a graph that writes 1 to an array, copies the array in a branch, and writes 2 to it. Returns
    the copy.

    between: a function of the stream and the event after the copy; it is called before the second write.
    """
    cp = cupy()
    a, copy = cp.zeros(4), cp.zeros(4)
    origin, branch = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with origin:
        origin.begin_capture()
        a.fill(1)
        branch.wait_event(origin.record())
        with branch:
            copy[...] = a
        done = branch.record()
        between(origin, done)
        a.fill(2)
        origin.wait_event(done)
        origin.end_capture().launch()
        return copy.get()


def test_a_graphs_branch_runs_in_the_order_of_the_calls_or_when_it_is_waited_for():
    copies = {}
    for schedule in ("early", "late"):
        with standin.installed(("90",), schedule=schedule):
            assert (captured_copies(lambda origin, done: origin.wait_event(done)) == 1).all()
            copies[schedule] = captured_copies(lambda origin, done: None)
    assert (copies["early"] == 1).all()
    assert (copies["late"] == 2).all()  # the second write does not wait for the copy
