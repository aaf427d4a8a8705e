"""The devices on which layers and kernels are tested."""

from __future__ import annotations

import contextlib
import os

import pytest

from gpuconv import backends

# NumPy in the everyday tests, and the emulated device with `pytest -m kernels`.
DEVICES = ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)]


def kernel_devices() -> list[str]:
    """The devices that GPUCONV_TEST_DEVICES names, such as "emulated,cuda"; a missing one is an error. If the
    variable is not set, they are "emulated" and, if there is a GPU, the first one. `gpuconv info` says why there is
    none."""
    if named := os.environ.get("GPUCONV_TEST_DEVICES"):
        return [backends.resolve(name) for name in named.split(",")]
    devices = ["emulated"]
    with contextlib.suppress(backends.DeviceError):
        devices.append(backends.resolve("cuda"))
    return devices
