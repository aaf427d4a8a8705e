"""The path to a GPU with a stand-in for CuPy: what is loaded and passed, and the errors when something is missing."""

import contextlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from gpuconv.backends import DeviceError
from gpuconv.backends.cuda.adapter import open_device
from gpuconv.backends.cuda.runtime import cubin_path, graph, nvrtc
from gpuconv.backends.cuda.runtime.graph import CudaRecorder
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.source import resolve
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.devices import Device

ONE_ROW = struct(np.dtype([(name, np.int64) for name in ("count", "to", "from", "saved")], align=True), 1, 0, 0, 0)


class CudaError(Exception):
    pass


class Launch(NamedTuple):
    name: str
    device: int
    grid: tuple
    block: tuple
    arguments: list
    shared: int
    function: object


class FakeCupy(ModuleType):
    """One GPU of compute capability 9.0 that records its launches; with `fail`, no GPU."""

    def __init__(self, count=1, driver=13000, fail=False):
        super().__init__("cupy")
        self.launches, self.loaded, self.current = [], [], [0]
        fake = self

        class Device:
            compute_capability = "90"

            def __init__(self, index):
                self.index = index

            def __enter__(self):
                fake.current.append(self.index)
                return self

            def __exit__(self, *_):
                fake.current.pop()

        class RawModule:
            def __init__(self, path):
                fake.loaded.append(path)

            def get_function(self, name):
                return Function(name)

        class Function:
            shared_size_bytes = 3072
            max_dynamic_shared_size_bytes = 48 * 1024 - shared_size_bytes

            def __init__(self, name):
                self.name = name

            def __call__(self, grid, block, arguments, shared_mem):
                if shared_mem > self.max_dynamic_shared_size_bytes:
                    raise CudaError("CUDA_ERROR_INVALID_VALUE")
                launch = Launch(self.name, fake.current[-1], grid, block, arguments, shared_mem, self)
                fake.launches.append(launch)

        def device_count():
            if fail:
                raise CudaError("cudaErrorInsufficientDriver")
            return count

        self.RawModule = RawModule
        self.cuda = SimpleNamespace(
            Device=Device,
            runtime=SimpleNamespace(
                getDevice=lambda: fake.current[-1],
                getDeviceCount=device_count,
                driverGetVersion=lambda: driver,
                runtimeGetVersion=lambda: 13000,
                getDeviceProperties=lambda index: {"name": b"Make-Believe"},
                CUDARuntimeError=CudaError,
            ),
        )


class DeviceArray:
    """The attributes of a CuPy array that a launch reads."""

    def __init__(self, dtype, pointer=4096, device=0):
        self.dtype, self.size, self.shape, self.strides = np.dtype(dtype), 8, (8,), (np.dtype(dtype).itemsize,)
        self.flags, self.data = SimpleNamespace(c_contiguous=True), SimpleNamespace(ptr=pointer, device_id=device)
        self.device = SimpleNamespace(id=device)


DeviceArray.__module__ = "cupy"


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy(count=2)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


@pytest.mark.parametrize("folder", ["caf\u00e9", "caf\udce9"], ids=["not ASCII", "undecodable"])
def test_a_binary_is_loaded_from_a_folder_with_any_name(cupy, monkeypatch, tmp_path, folder):
    """CuPy encodes the path as UTF-8: it refuses undecodable bytes, and Windows drivers expect another encoding."""
    entry = tmp_path / folder / "activation-sm_90a-0123"
    entry.mkdir(parents=True)
    (entry / "kernel.cubin").write_bytes(b"a binary")
    binary = SimpleNamespace(path=entry / "kernel.cubin")
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *_: binary)
    module = Module(resolve("activation.cu"), {"DTYPE": "float32", "WIDTH": "4"})
    module.kernel("relu_forward")(1, 128, DeviceArray("float32"), DeviceArray("float32"), 8, ONE_ROW)
    (loaded,) = cupy.loaded
    assert loaded.isascii()
    assert Path(loaded).read_bytes() == b"a binary"
    monkeypatch.setattr(cubin_path, "_folder_of_copies", lambda: tmp_path / folder)
    with pytest.raises(nvrtc.CompileError, match="not ASCII; set GPUCONV_CACHE_DIR"):
        cubin_path.loadable(binary.path)


def test_a_launch_passes_grid_block_and_packed_arguments(cupy, monkeypatch):
    monkeypatch.setattr(
        nvrtc, "compile_cubin", lambda name, text, defines, arch: SimpleNamespace(path=f"{name}.{arch}")
    )
    module = Module(resolve("activation.cu"), {"DTYPE": "float32", "WIDTH": "4"})
    y, x = DeviceArray("float32", device=1), DeviceArray("float32", device=1)
    kernel = module.kernel("leaky_relu_forward")
    for shared in (0, 100_000, 48 * 1024):
        kernel((3, 2), 128, y, None, 8, ONE_ROW, 0.5, shared=shared)
    kernel(0, 128, y, x, 0, ONE_ROW, 0.5)
    first, second, _ = cupy.launches
    assert cupy.loaded == ["activation.sm_90a"]
    assert first[:4] == ("leaky_relu_forward", 1, (3, 2, 1), (128, 1, 1))
    assert first.arguments[0] is y
    assert [(type(a), a) for a in first.arguments[1:]] == [
        (np.uintp, 0),
        (np.int64, 8),
        (np.void, ONE_ROW),
        (np.float64, 0.5),
    ]
    assert (first.shared, second.shared) == (0, 100_000)
    assert first.function.max_dynamic_shared_size_bytes == 100_000
    with pytest.raises(TypeError, match="one device, received y on cuda:1, x on cuda:0"):
        kernel(1, 128, y, DeviceArray("float32", device=0), 8, ONE_ROW, 0.5)
    kernel(1, 128, DeviceArray("float32"), DeviceArray("float32"), 8, ONE_ROW, 0.5, shared=48 * 1024)
    assert cupy.launches[-1].function.max_dynamic_shared_size_bytes == 48 * 1024  # set for cuda:0 too
    assert len(cupy.loaded) == 2  # each device loads the binary
    assert cupy.launches[-1].device == 0


def test_a_gpu_compile_goes_through_nvrtc(cupy, tmp_path, monkeypatch):
    pytest.importorskip("cuda.bindings", reason="NVRTC is not installed")
    monkeypatch.setenv("GPUCONV_CACHE_DIR", str(tmp_path))
    load(resolve("arithmetic.cu"), {"DTYPE": "float16", "WIDTH": 8})._on_gpu(0)
    assert cupy.loaded[0].endswith("kernel.cubin")
    assert cupy.loaded[0].startswith(str(tmp_path / "arithmetic-sm_90a-"))


def test_a_device_is_opened_by_its_index(cupy):
    device = open_device(Device("cuda", 1))
    assert device.name == "cuda:1"
    assert device.description == "Make-Believe, compute capability 9.0"
    with pytest.raises(DeviceError, match=r"there is no device cuda:2; this machine has 2"):
        open_device(Device("cuda", 2))


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (0, "no NVIDIA driver is installed"),
        (12020, r"the NVIDIA driver supports CUDA 12\.2 and CuPy was built for 13\.0"),
        (13000, "the NVIDIA driver finds no usable GPU"),
    ],
)
def test_the_error_without_a_device_says_why_and_keeps_the_cause(monkeypatch, driver, why):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(driver=driver, fail=True))
    with pytest.raises(DeviceError, match=why) as caught:
        open_device(Device("cuda", 0))
    assert isinstance(caught.value.__cause__, CudaError)


def test_a_missing_cupy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy is not installed: pip install 'gpuconv\[cuda13\]'") as caught:
        open_device(Device("cuda", 0))
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_cupy_that_cannot_create_its_folder_is_reported(monkeypatch):
    class Homeless:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise NotADirectoryError(20, "Not a directory", "/etc/passwd/.cupy")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Homeless(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"CuPy cannot be imported: .*Not a directory: '/etc/passwd/\.cupy'"):
        open_device(Device("cuda", 0))


# --- capturing: which calls are made, in which order, and what is kept alive ------------------


class Capturing(FakeCupy):
    """A CuPy with streams, graphs and pools that record their calls. capacity: the size of a pool in bytes."""

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
    assert capturing.alive == 1  # although the work has dropped it
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
