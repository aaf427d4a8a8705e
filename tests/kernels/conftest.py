"""What kernel tests share: markers, devices (`tests.devices`), the oracle for NumPy arrays, and random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpuconv
from tests.devices import kernel_devices

HERE = Path(__file__).parent
# The tests of all files but these are marked `kernels` or `slow`.
EVERYDAY = ("test_activation_kernels.py", "test_headers.py", "test_smoke.py", "test_wgmma_layouts.py")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and item.path.name not in EVERYDAY and "slow" not in item.keywords:
            item.add_marker("kernels")


@pytest.fixture(params=kernel_devices())
def device(request):
    """The name of a device that runs kernels."""
    return request.param


@pytest.fixture(autouse=True)
def _numpy_arrays_ask_the_oracle():
    """In these tests, an op's result for NumPy arrays is the reference for a kernel."""
    with gpuconv.oracle():
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20260707)
