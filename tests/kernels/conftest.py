"""The devices that every kernel test runs on: "emulated" always, "cuda" where there is a GPU. The same tests."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gpuconv import backends


def _devices() -> list[str]:
    found = ["emulated"]
    with contextlib.suppress(backends.DeviceError):  # `gpuconv info` says why there is none
        found.append(backends.resolve("cuda"))
    return found


@pytest.fixture(params=_devices())
def device(request):
    """The name of a device that kernels run on."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20260707)
