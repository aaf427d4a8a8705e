"""Opening a GPU, with a stand-in for CuPy, and the errors when something is missing."""

import sys

import pytest

from gpuconv.backends import DeviceError
from gpuconv.backends.cuda.adapter import CudaDevice
from tests.backends.cuda.fake_cupy import CudaError, FakeCupy


def test_a_device_is_opened_by_its_index(cupy):
    device = CudaDevice(1)
    assert device.name == "cuda:1"
    assert device.description == "Make-Believe, compute capability 9.0"
    with pytest.raises(DeviceError, match=r"there is no device cuda:2; this machine has 2"):
        CudaDevice(2)


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (0, "no NVIDIA driver is installed"),
        (12020, r"the NVIDIA driver supports CUDA 12\.2 and CuPy was built for 13\.0"),
        (13000, "the NVIDIA driver finds no usable GPU"),
    ],
)
def test_the_error_without_a_device_says_why_and_keeps_the_cause(monkeypatch, driver, why):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(driver=driver, fail=True))
    with pytest.raises(DeviceError, match=why) as caught:
        CudaDevice(0)
    assert isinstance(caught.value.__cause__, CudaError)


def test_a_missing_cupy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy is not installed: pip install 'gpuconv\[cuda13\]'") as caught:
        CudaDevice(0)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_cupy_that_cannot_create_its_folder_is_reported(monkeypatch):
    class Homeless:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise NotADirectoryError(20, "Not a directory", "/etc/passwd/.cupy")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Homeless(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"CuPy cannot be imported: .*Not a directory: '/etc/passwd/\.cupy'"):
        CudaDevice(0)
