"""The adapter of the emulated device: it creates arrays there and copies them to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.runtime import runtime
from gpuconv.devices import SettingError
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.backends.cuda.runtime.graph import EmulatedRecorder


class EmulatedDevice:
    name = "emulated"
    description = "the CUDA kernels on the CPU"

    def __init__(self) -> None:
        try:
            emulator.settings()
        except ValueError as error:
            raise SettingError(str(error)) from error
        runtime()

    def from_host(self, x: np.ndarray) -> Array:
        return emulator.asarray(x)

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.array(x.view(np.ndarray))

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return emulator.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return emulator.zeros(shape, dtype)

    def synchronize(self) -> None:
        emulator.capture.forbid("synchronize")

    def recorder(self) -> EmulatedRecorder:
        from gpuconv.backends.cuda.runtime.graph import EmulatedRecorder

        return EmulatedRecorder()
