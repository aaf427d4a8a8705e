"""The devices that every kernel test runs on (`tests.devices`), and its random numbers. The same tests on all.

The tests here are the tier `kernels`, but for those of `test_smoke.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.devices import kernel_devices

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and item.path.name != "test_smoke.py":
            item.add_marker("kernels")


@pytest.fixture(params=kernel_devices())
def device(request):
    """The name of a device that kernels run on."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20260707)
