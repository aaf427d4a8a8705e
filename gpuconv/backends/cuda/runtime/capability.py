"""The compute capability of a GPU."""

from __future__ import annotations

import functools

from gpuconv.algorithms import NEWEST
from gpuconv.backends.cuda import emulator
from gpuconv.devices import Device
from gpuconv.types import Array


def capability_of(array: Array) -> int:
    """The compute capability of an array's GPU, 90 for 9.0. The emulated device has the newest."""
    return NEWEST if isinstance(array, emulator.EmulatedArray) else _capability(array.data.device_id)


def capability_named(device: str) -> int:
    """`capability_of`, given the device's name."""
    named = Device.named(device)
    return _capability(named.index) if named.on_gpu else NEWEST


@functools.cache
def _capability(index: int) -> int:
    import cupy

    return int(cupy.cuda.Device(index).compute_capability)
