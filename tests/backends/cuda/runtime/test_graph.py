"""Capturing a CUDA graph: which calls are made, in which order, and what is kept alive."""

import contextlib
import sys
from types import SimpleNamespace

import pytest

from gpuconv.backends.cuda.runtime import graph
from gpuconv.backends.cuda.runtime.graph import CudaRecorder
from tests.backends.cuda.fake_cupy import CudaError, FakeCupy


class Capturing(FakeCupy):
    """A CuPy with streams, graphs and pools that record their calls. capacity: the most bytes of one allocation."""

    def __init__(self, capacity=100):
        super().__init__()
        self.calls, self.capacity, self.alive = [], capacity, 0
        fake, calls = self, self.calls

        class Stream:
            def __init__(self, non_blocking=False):
                self.non_blocking = non_blocking

            def __enter__(self):
                fake.current_stream = self
                return self

            def __exit__(self, *_):
                fake.current_stream = None

            def synchronize(self):
                calls.append("wait for the stream")

            def begin_capture(self):
                assert self.non_blocking
                calls.append("begin")

            def end_capture(self):
                calls.append("end")
                return SimpleNamespace(launch=lambda stream: calls.append("launch"))

        class Memory:
            def __init__(self, size):
                if size > fake.capacity:
                    raise CudaError("cudaErrorMemoryAllocation")
                fake.alive += 1

            def __del__(self):
                fake.alive -= 1

        class MemoryPool:
            def __init__(self, allocator):
                self.allocator = allocator

            def malloc(self, size):
                return self.allocator(size)

        @contextlib.contextmanager
        def using_allocator(malloc):
            calls.append("private memory")
            fake.malloc = malloc
            yield
            calls.append("common memory")

        self.cuda.Device.synchronize = lambda device: calls.append("wait for the device")
        self.cuda.Stream, self.cuda.Memory, self.cuda.MemoryPool = Stream, Memory, MemoryPool
        self.cuda.MemoryPointer = lambda memory, offset: memory
        self.cuda.using_allocator = using_allocator
        self.cuda.get_current_stream = lambda: self.current_stream
        pool = SimpleNamespace(free_all_blocks=lambda stream=None: calls.append("free the rest"))
        self.get_default_memory_pool = lambda: pool


@pytest.fixture
def capturing(monkeypatch):
    fake = Capturing()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    graph._capture_stream.cache_clear()
    yield fake
    graph._capture_stream.cache_clear()


def test_a_capture_makes_its_calls_in_order_and_keeps_its_memory(capturing):
    recorder = CudaRecorder(0)
    recorder.prepare(lambda: capturing.calls.append("first work"))
    replay = recorder.capture(lambda: (capturing.calls.append("work"), capturing.malloc(60)))
    replay()
    replay()
    prepared = ["wait for the device", "first work", "wait for the stream"]
    begun = ["free the rest", "private memory", "begin", "work", "end", "common memory"]
    assert capturing.calls[0] == "free the rest"  # by the recorder's constructor
    assert capturing.calls[1:] == [*prepared, *begun, "launch", "launch"]
    assert capturing.alive == 1  # the recorder keeps the memory that the work has dropped
    recorder.release()
    assert capturing.alive == 0


def test_a_capture_that_runs_out_of_memory_is_ended_and_its_memory_freed(capturing):
    recorder = CudaRecorder(0)
    with pytest.raises(MemoryError, match="needs 101 more bytes of device memory") as raised:
        recorder.capture(lambda: [capturing.malloc(size) for size in (50, 101)])
    assert isinstance(raised.value.__cause__, CudaError)
    assert capturing.calls.count("end") == 1
    recorder.release()
    assert capturing.alive == 0
