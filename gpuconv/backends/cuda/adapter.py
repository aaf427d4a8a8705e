"""The adapter of a CUDA GPU: it creates arrays there, copies them to the host, and waits for the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.devices import DeviceError, SettingError, gpu_name
from gpuconv.text.plain_text import one_line
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.backends.cuda.runtime.graph import CudaRecorder


class CudaDevice:
    def __init__(self, index: int) -> None:
        from gpuconv.backends.cuda.gemm import tuner

        try:
            import cupy
        except ImportError as error:
            raise DeviceError(
                "CuPy is not installed: pip install 'gpuconv[cuda13]' (or cuda12, if the driver is for CUDA 12)"
            ) from error
        except Exception as error:  # for example, if CuPy cannot create its folder in the home directory
            raise DeviceError(f"CuPy cannot be imported: {one_line(error)}") from error
        self.name = gpu_name(index)
        if index >= (count := _device_count(cupy)):
            raise DeviceError(f"there is no device {self.name}; this machine has {count}")
        try:
            tuner.enabled()  # raises for an invalid setting now, before work begins
        except ValueError as error:
            raise SettingError(str(error)) from error
        self._cupy, self._index, self._device = cupy, index, cupy.cuda.Device(index)

    @property
    def description(self) -> str:
        from gpuconv.algorithms import ALGORITHMS

        model = self._cupy.cuda.runtime.getDeviceProperties(self._index)["name"].decode()
        capability = int(self._device.compute_capability)
        needed = min(each.capability for each in ALGORITHMS if each.capability)
        # Runs store this text with their digests and are compared by it, so the wording must not change.
        text = f"{model}, compute capability {capability / 10:.1f}"
        if capability < needed:
            text += f", convolutions without tensor cores, for which gpuconv needs {needed / 10:.1f}"
        return text

    def from_host(self, x: np.ndarray) -> Array:
        with self._device:
            return self._cupy.asarray(x)

    def constant(self, x: np.ndarray) -> Array:
        """See `backends.constant`. The copy has a stream of its own, because a capture on the current one would only
        record it."""
        with self._device, self._cupy.cuda.Stream(non_blocking=True) as stream:
            array = self._cupy.asarray(x)
            stream.synchronize()
        return array

    def from_dlpack(self, x: object) -> Array:
        with self._device:
            return self._cupy.from_dlpack(x)

    def from_cuda_array_interface(self, x: object) -> Array:
        return self._cupy.asarray(x)  # on the device of its memory

    def to_numpy(self, x: Array) -> np.ndarray:
        return self._cupy.asnumpy(x)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        with self._device:
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        with self._device:
            return self._cupy.zeros(shape, dtype)

    def synchronize(self) -> None:
        from gpuconv.backends.cuda.runtime.graph import capture_lock

        with capture_lock(self._index):
            self._device.synchronize()

    @contextmanager
    def same_bits(self) -> Iterator[None]:
        """See `backends.same_bits`: here "auto" is the cost model's choice, the same on every GPU of one compute
        capability."""
        from gpuconv.backends.cuda.gemm import tuner

        token = tuner.model_chooses.set(True)
        try:
            yield
        finally:
            tuner.model_chooses.reset(token)

    def recorder(self) -> CudaRecorder:
        from gpuconv.backends.cuda.runtime.graph import CudaRecorder

        return CudaRecorder(self._index)


def _device_count(cupy: ModuleType) -> int:
    """The number of CUDA devices. Raises DeviceError, with the cause, if there are none."""
    runtime = cupy.cuda.runtime
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        # Without a driver (version 0) and with one that is too old, the error is the same.
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            why = "no NVIDIA driver is installed"
        elif driver < needed:
            why = f"the NVIDIA driver supports CUDA {_version(driver)} and CuPy was built for {_version(needed)}"
        else:
            why = "the NVIDIA driver finds no usable GPU"
        raise DeviceError(f"{why} ({error})") from error


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
