"""Emulated arrays are poisoned, aligned, and of a separate type that does not mix with NumPy arrays."""

import gc

import numpy as np
import pytest

from gpuconv.backends import device_of
from gpuconv.backends.cuda import emulator
from gpuconv.dtypes import as_dtype


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_empty_floats_are_nan(dtype):
    x = emulator.empty((3, 5), as_dtype(dtype))
    assert np.isnan(np.asarray(x).astype(np.float64)).all()
    assert x.dtype == as_dtype(dtype)


def test_empty_integers_hold_a_conspicuous_value():
    assert (np.asarray(emulator.empty(4, np.int32)) == -0x32323233).all()
    assert (np.asarray(emulator.empty(4, np.uint8)) == 0xCD).all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), 7, (2, 3, 5)])
def test_new_arrays_are_aligned_contiguous_and_of_the_emulated_type(shape):
    for make in (emulator.empty, emulator.zeros):
        x = make(shape, np.float32)
        assert type(x) is emulator.EmulatedArray
        assert x.shape == np.empty(shape).shape
        assert x.ctypes.data % 256 == 0
        assert x.flags.c_contiguous
        assert x.flags.writeable


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        pytest.param((3, -1), ValueError, r"no negative dimensions, received shape \(3, -1\)$", id="negative"),
        pytest.param((2**61,), MemoryError, f"{2**63} bytes$", id="2^63 bytes"),
        pytest.param((2**62 - 8,), MemoryError, f"{2**64 - 32} bytes$", id="2^64 bytes with its guards"),
    ],
)
def test_impossible_shapes_are_refused(shape, error, message):
    with pytest.raises(error, match=message):
        emulator.empty(shape, np.float32)


def test_a_shape_of_numpys_integers_does_not_wrap():
    for shape in ((np.int8(20), np.int8(10)), (np.uint8(200), np.uint8(200)), (np.int32(65536), np.int32(3))):
        assert emulator.empty(shape, np.uint8).shape == tuple(map(int, shape))
    assert emulator.empty(np.int8(20)).shape == (20,)
    assert emulator.empty(np.array([2, 3])).shape == (2, 3)
    with pytest.raises(TypeError):
        emulator.empty((2.0, 3))


def test_asarray_copies_arrays_from_elsewhere():
    host = np.arange(6.0).reshape(2, 3).T
    x = emulator.asarray(host)
    host[0, 0] = 9
    assert x.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert emulator.asarray(x) is x
    assert emulator.asarray(x, np.float32).dtype == np.float32
    assert emulator.asarray([1, 2], np.int8).dtype == np.int8


def test_ufuncs_methods_and_views_give_emulated_arrays():
    x = emulator.asarray(np.float32([[1, -2, 3], [4, 5, -6]]))
    assert device_of(x) == "emulated"
    for y in (x * 2, np.abs(x), x[:, 1], x.reshape(-1), x.sum(axis=0), x.copy(), x.astype(np.float64), 1 - x, x > 0):
        assert device_of(y) == "emulated", y
    assert x.sum() == 5
    assert not isinstance(x.max(), np.ndarray)
    x += 1
    np.add(x, x, out=x)
    assert type(x) is emulator.EmulatedArray
    assert x.tolist() == [[4, -2, 8], [10, 12, -10]]


def test_numpys_functions_give_emulated_arrays():
    """As CuPy's functions give arrays on the GPU: a user's layer may call them."""
    x = emulator.asarray(np.float32([[1, -2, 3], [4, 5, -6]]))
    out = emulator.zeros((4, 3))
    assert np.concatenate([x, x], out=out) is out
    found = [np.where(x > 0, x, 0), np.concatenate([x, x]), np.einsum("ij,kj->ik", x, x), np.pad(x, 1)]
    found += [*np.split(x, 3, axis=1), *np.nonzero(x > 0), *np.linalg.svd(x), *np.histogramdd(x.T)[1]]
    for y in found:
        assert device_of(y) == "emulated", y
    assert found[0].tolist() == [[1, 0, 3], [4, 5, 0]]
    assert np.array_equal(x, x) is True
    assert np.linalg.svd(x).S.shape == (2,)


@pytest.mark.parametrize(
    "operation",
    [np.add, lambda a, b: b + a, lambda a, b: np.multiply(a, a, out=b), lambda a, b: np.add(a, 1, out=a, where=b > 0)],
    ids=["function", "operator", "output", "mask"],
)
def test_operations_with_a_numpy_array_are_refused(operation):
    with pytest.raises(TypeError, match="an array on the emulated device and a NumPy array"):
        operation(emulator.zeros(3), np.zeros(3, np.float32))


def test_a_ufunc_takes_an_emulated_mask():
    x, mask = emulator.asarray(np.float32([1, 2])), emulator.asarray(np.array([False, True]))
    np.multiply(x, 5, out=x, where=mask)
    assert x.tolist() == [1, 10]
    assert np.add.reduce(x, where=mask) == 10


def test_a_ufunc_of_two_results_may_get_an_array_for_one_of_them():
    x, whole = emulator.asarray(np.float32([1.5, 2.5])), emulator.zeros(2)
    fraction, same = np.modf(x, out=(None, whole))
    assert same is whole
    assert (fraction.tolist(), whole.tolist()) == ([0.5, 0.5], [1, 2])


def test_memory_is_freed_with_the_last_view():
    gc.collect()
    addresses = set()
    for _ in range(50):
        x = emulator.empty(1 << 20)
        view = x[5:]
        addresses.add(x.ctypes.data)
        del x
        assert np.isnan(view[0])  # a view keeps the memory
        del view
    assert len(addresses) < 50


def test_views_without_elements_are_views_where_only_kernels_may_access_memory():
    empty, full = emulator.empty((0, 3)), emulator.empty((4, 3))
    with emulator.device_only():
        assert empty.reshape(-1).shape == empty.ravel().shape == (0,)
        assert full[:0].shape == (0, 3)
        assert full[2:2].reshape(3, 0).shape == (3, 0)
        with pytest.raises(emulator.HostAccessError, match="reshape, which copies here"):
            full.T.reshape(-1)
    with emulator.capture_launches():
        assert empty.reshape(-1).shape == (0,)


def test_asarray_reads_short_names_of_dtypes():
    x = emulator.asarray([1.0, 2.5], "bf16")
    assert (x.dtype, np.asarray(x).tolist()) == (as_dtype("bfloat16"), [1.0, 2.5])
    assert emulator.asarray(x, "bf16") is emulator.asarray(x, "bfloat16") is emulator.asarray(x) is x
    assert emulator.asarray(x, "fp32").dtype == np.float32
    with pytest.raises(TypeError, match="an array must hold numbers of at most 64 bits"):
        emulator.asarray([1.0], object)
