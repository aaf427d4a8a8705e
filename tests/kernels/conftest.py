"""The devices that every kernel test runs on (`tests.devices`), and its random numbers. The same tests on all."""

from __future__ import annotations

import numpy as np
import pytest

from tests.devices import kernel_devices


@pytest.fixture(params=kernel_devices())
def device(request):
    """The name of a device that kernels run on."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20260707)
