"""Naming devices, choosing one, and moving arrays between them."""

import tracemalloc

import numpy as np
import pytest

from gpuconv import backends, ops
from gpuconv.backends import DeviceError, adapters, asarray, device_of, resolve, to_numpy
from gpuconv.devices import Device


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without a CUDA device, whatever this one has."""
    real = adapters.adapter_of

    def adapter(device):
        if device.startswith("cuda"):
            raise DeviceError("no driver here")
        return real(device)

    monkeypatch.setattr(adapters, "adapter_of", adapter)


class FakeGpu:
    name, description = "cuda:0", "a make-believe GPU"


@pytest.fixture
def one_gpu(monkeypatch):
    """A machine with a GPU that has a name and a description, and cannot compute."""
    real = adapters.adapter_of
    monkeypatch.setattr(adapters, "adapter_of", lambda device: FakeGpu() if device[:4] == "cuda" else real(device))


# --- names -------------------------------------------------------------------------------------


def test_numpy_is_always_available():
    assert resolve("numpy") == "numpy"
    assert resolve("NumPy") == "numpy"


def test_auto_without_a_gpu_says_why(no_gpu):
    assert resolve("auto") == resolve("AUTO") == "numpy"
    assert backends.choose() == backends.choose("AUTO") == ("numpy", "no CUDA device: no driver here")


def test_auto_chooses_the_gpu(one_gpu):
    assert resolve("auto") == resolve("cuda") == "cuda:0"
    assert backends.choose() == ("cuda:0", "a make-believe GPU")
    assert backends.choose("cpu") == ("numpy", "as you asked")


def test_the_error_for_an_unavailable_device_says_what_is_missing(no_gpu):
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match="no driver here"):
            resolve(device)
    with pytest.raises(DeviceError, match="no driver here"):
        asarray(np.ones(3), device="cuda")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("numpi", "unknown device 'numpi'; did you mean 'numpy'?"),
        ("gpu", r"unknown device 'gpu' \(known: numpy, emulated, cuda, auto"),
        ("", "unknown device ''"),
        (3, r"unknown device '3' \(known: numpy"),
        ("cuda:", r"a device is numpy \(or cpu\), cuda, cuda:1, emulated or auto, received 'cuda:'"),
        ("cuda:x", "received 'cuda:x'"),
        ("cuda:-1", "received 'cuda:-1'"),
        ("cuda:\N{SUPERSCRIPT TWO}", "a device is"),
        ("numpy:0", "received 'numpy:0'"),
        ("cpu:0", "received 'cpu:0'"),
        ("auto:0", "received 'auto:0'"),
    ],
)
def test_a_bad_device_name_is_refused(device, message):
    for look_up in (resolve, Device.named):
        with pytest.raises(ValueError, match=message):
            look_up(device)


# --- where an array is -------------------------------------------------------------------------


def test_device_of_names_the_device_or_refuses():
    assert device_of(np.ones(3)) == "numpy"
    assert device_of(np.ones(3).view(np.recarray)) == "numpy"
    for not_an_array in ([1.0], 3.0, None, np.float32(1)):
        with pytest.raises(TypeError, match=f"received {type(not_an_array).__name__}; gpuconv.asarray makes one"):
            device_of(not_an_array)


# --- moving ------------------------------------------------------------------------------------


def test_asarray_does_not_copy_an_array_already_on_the_device():
    x = np.arange(6, dtype=np.float32)[::2]
    assert asarray(x) is x
    assert asarray(x, device="numpy") is x
    assert asarray(x, dtype="float32") is x
    assert to_numpy(x) is x


def test_asarray_converts_the_dtype():
    x = asarray([[1, 2], [3, 4]], dtype="float16")
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float16
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    assert asarray(x, dtype=np.float64).dtype == np.float64
    assert asarray(3).shape == ()


def test_asarray_knows_bfloat16_by_name():
    assert asarray(np.ones(2), dtype="bfloat16").dtype.name == "bfloat16"
    assert asarray([1.0], dtype="bfloat16").dtype.name == "bfloat16"


def test_empty_and_zeros_make_arrays():
    assert backends.empty([2, 3], "float32").shape == (2, 3)
    np.testing.assert_array_equal(backends.zeros((2,), np.int64), [0, 0])
    backends.synchronize()


# --- the emulated device -----------------------------------------------------------------------


def test_a_round_trip_through_the_emulated_device_keeps_the_values():
    try:
        resolve("emulated")
    except DeviceError as error:
        pytest.skip(str(error))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]
    copy = asarray(x, device="emulated")
    assert device_of(copy) == "emulated"
    back = to_numpy(copy)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, x)
    assert asarray(copy) is copy
    assert asarray(copy, device="emulated") is copy
    assert type(asarray(copy, device="numpy")) is np.ndarray
    with pytest.raises(TypeError, match="dy is emulated, y is numpy"):
        ops.relu_backward(copy, x)


@pytest.mark.parametrize(
    ("device", "dtype", "copies"), [("numpy", None, 1), ("emulated", None, 1), ("emulated", "float64", 3)]
)
def test_host_copies_are_new_arrays_and_an_array_in_device_memory_is_copied_once(device, dtype, copies):
    """copies: how many times x's memory the copy takes; with another dtype, it is copied and converted."""
    try:
        x = asarray(np.ones(10**6, np.float32), device)
    except DeviceError as error:
        pytest.skip(str(error))
    tracemalloc.start()
    try:
        found = backends.host_copies({"x": x}, dtype)["x"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(found) is np.ndarray
    assert found.dtype == (dtype or "float32")
    assert not np.shares_memory(found, x)
    assert round(peak / x.nbytes, 1) == copies
