"""A stand-in for CuPy that records its calls and runs nothing. tests/standin has one that runs kernels."""

from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np


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
    """GPUs of compute capability 9.0, which record their launches.

    count: the number of GPUs. driver: the version of CUDA that the driver supports. fail: no GPU can be used."""

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
