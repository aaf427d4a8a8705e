"""Arrays that share their memory with other libraries, by DLPack and by the CUDA array interface."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import DeviceError, asarray, to_numpy
from gpuconv.backends.cuda import adapter
from gpuconv.devices import KIND_OF_TYPE


class OnGpu:
    """Stands in for a tensor of another library in the memory of cuda:1."""

    def __dlpack__(self, **options):
        raise AssertionError("the host must not read the memory of a GPU")

    def __dlpack_device__(self):
        return 2, 1


class CudaInterface:
    __cuda_array_interface__ = {"shape": (2,), "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012


@pytest.fixture
def imports(monkeypatch):
    """CUDA devices that record which arrays they are asked to import."""
    imported = []

    class Imported:
        dtype = np.dtype("float32")
        device = SimpleNamespace(id=1)

    def open_device(index):
        def take(x):
            imported.append((index, x))
            return Imported()

        return SimpleNamespace(name=f"cuda:{index}", from_dlpack=take, from_cuda_array_interface=take)

    monkeypatch.setitem(KIND_OF_TYPE, Imported, "cuda")
    monkeypatch.setattr(adapter, "CudaDevice", open_device)
    return imported


def test_a_tensor_on_a_gpu_stays_there(imports):
    tensor = OnGpu()
    assert asarray(tensor).device.id == 1
    assert imports == [(1, tensor)]


def test_an_array_with_the_cuda_array_interface_is_imported(imports):
    asarray(CudaInterface())
    assert len(imports) == 1


def test_the_refusal_of_a_gpu_tensor_says_that_cupy_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="CuPy is not installed"):
        asarray(OnGpu())


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_pytorch_shares_the_memory_of_our_arrays(device):
    torch = pytest.importorskip("torch")
    x = asarray(np.arange(6, dtype=np.float32).reshape(2, 3), device)
    tensor = torch.from_dlpack(x)
    tensor[1, 2] = 50
    assert to_numpy(x)[1, 2] == 50


def test_asarray_shares_the_memory_of_a_tensor():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    x = asarray(tensor)
    np.testing.assert_array_equal(x, [[0, 1, 2], [3, 4, 5]])
    tensor[0, 0] = 9
    assert x[0, 0] == 9, "the memory must be shared"
    x[0, 1] = 7  # x may be written to
    assert tensor[0, 1] == 7
    assert asarray(tensor.T, dtype="float64").flags.writeable
    np.testing.assert_array_equal(to_numpy(tensor.T), tensor.T.numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_that_needs_a_gradient_is_refused(dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, dtype=getattr(torch, dtype), requires_grad=True)
    with pytest.raises((BufferError, RuntimeError), match="detach"):
        asarray(tensor)
    assert asarray(tensor.detach()).tolist() == [1, 1]
