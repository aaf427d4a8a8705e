"""Tensor maps on a GPU: the requests to the CUDA driver, and the boxes that a kernel copies with the maps."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.backends.cuda.runtime import tensor_map as runtime
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.tensor_map import tensor_map
from tests import standin
from tests.standin import driver

FILE = Path(__file__).parents[1] / "kernels/bulk_copies.cu"
X = np.arange(1, 5 * 6 * 40 + 1, dtype=np.uint16).reshape(5, 6, 40)


def boxes(device, swizzle):
    """A kernel loads a box of X at (1, -1, 8), which reaches past X, and stores it into another array. Returns the
    loaded lines and that array."""
    x, copy, lines = (asarray(array, device) for array in (X, np.zeros_like(X), np.zeros(4 * 3 * 32, np.uint16)))
    maps = [tensor_map(array, (4, 3, 32), swizzle) for array in (x, copy)]
    load(FILE).kernel("boxes")(1, 128, lines, *maps, lines.nbytes, 0, 8, -1, 1, shared=16384)
    return to_numpy(lines), to_numpy(copy)


@pytest.mark.parametrize("swizzle", [0, 64, 128])
def test_a_kernel_copies_the_same_boxes_as_on_the_emulated_device(swizzle):
    expected = boxes("emulated", swizzle)
    with standin.installed():
        on_gpu = boxes("cuda", swizzle)
    assert np.count_nonzero(expected[0]) == 4 * 2 * 32  # of 3 lines per image, one lies outside of X
    for one, other in zip(on_gpu, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_geometry_at_an_address_is_encoded_once():
    with standin.installed():
        x, elsewhere = asarray(X, "cuda"), asarray(X, "cuda")
        maps = [tensor_map(array, (4, 3, 32), 64) for array in (x, x.reshape(5, 6, 40), elsewhere)]
        assert maps[0] is maps[1]
        assert maps[0] is not maps[2]
        assert tensor_map(x, (4, 3, 32), 128) is not maps[0]
        assert runtime._encoded.cache_info().misses == 3


def test_limits_are_those_of_the_emulated_device():
    def refusal(device, index, box, swizzle):
        with pytest.raises(ValueError, match="received") as error:
            tensor_map(asarray(X, device)[index], box, swizzle)
        return str(error.value).partition(" address 0x")[0]

    wrong = [
        (np.s_[:], (4, 32), 0),
        (np.s_[:], (4, 3, 12), 0),
        (np.s_[:], (4, 3, 32), 32),
        (np.s_[:, :, 1:], (1, 1, 8), 0),
        (np.s_[:, :, ::2], (1, 1, 8), 0),
        (np.s_[:, :0], (1, 1, 8), 0),
    ]
    expected = [refusal("emulated", *request) for request in wrong]
    with standin.installed():
        assert [refusal("cuda", *request) for request in wrong] == expected


def test_an_error_of_the_driver_is_raised_with_the_request(monkeypatch):
    with standin.installed(), monkeypatch.context() as patch:
        patch.setattr(runtime, "driver", lambda: SimpleNamespace(cuTensorMapEncodeTiled=lambda *_: 1))
        with pytest.raises(RuntimeError, match=r"CUresult 1 for shape \(5, 6, 40\), .* boxes of \(4, 3, 32\)"):
            tensor_map(asarray(X, "cuda"), (4, 3, 32))


def test_the_driver_of_the_stand_in_refuses_each_wrong_argument(monkeypatch):
    """Each argument in turn gets a value that the driver's documentation forbids, or that gpuconv never passes."""
    with standin.installed(), monkeypatch.context() as patch:
        arguments = []
        recording = SimpleNamespace(cuTensorMapEncodeTiled=lambda *received: arguments.extend(received) or 0)
        patch.setattr(runtime, "driver", lambda: recording)
        tensor_map(asarray(X, "cuda"), (4, 3, 32), 64)
        assert driver.cuTensorMapEncodeTiled(*arguments) == driver.CUDA_SUCCESS
        to, item, rank, base, sizes, strides, box, steps, *_ = arguments
        number = type(item)
        for at, wrong in [
            (0, type(to)(to.value + 32)),
            (1, number(77)),
            (2, type(rank)(2)),
            (3, type(base)(base.value + 8)),
            (4, type(sizes)(40, 0, 5)),
            (5, type(strides)(80, 488)),
            (6, type(box)(4, 3, 4)),
            (7, type(steps)(1, 2, 1)),
            (8, number(1)),
            (9, number(1)),
            (10, number(4)),
            (11, number(1)),
        ]:
            changed = [*arguments[:at], wrong, *arguments[at + 1 :]]
            assert driver.cuTensorMapEncodeTiled(*changed) == driver.CUDA_ERROR_INVALID_VALUE, at
