"""The devices on which kernels are tested: those of GPUCONV_TEST_DEVICES, which the GPU gate sets."""

from __future__ import annotations

import pytest

from gpuconv.backends import DeviceError
from tests.devices import kernel_devices


def test_tests_run_on_the_named_devices_or_not_at_all(monkeypatch):
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "emulated,numpy")
    assert kernel_devices() == ["emulated", "numpy"]
    monkeypatch.setenv("GPUCONV_TEST_DEVICES", "cuda:99")
    with pytest.raises(DeviceError):
        kernel_devices()
    monkeypatch.delenv("GPUCONV_TEST_DEVICES")
    assert kernel_devices()[0] == "emulated"
