"""An op runs on the device of its arrays, whichever device is current."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from tests import standin

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((2, 4, 4, 3)).astype(np.float32)
ROWS, WEIGHT, DY = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((5, 3), (4, 3), (5, 4)))


@pytest.fixture
def two_gpus(schedule, untimed):
    with standin.installed(("90", "90"), schedule=schedule):
        import cupy

        yield cupy.cuda


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["cuda:0 is current", "cuda:1 is current"])
def other(two_gpus, request):
    """The name of a device other than the current one."""
    current, other = request.param
    with two_gpus.Device(current):
        yield f"cuda:{other}"
        assert two_gpus.runtime.getDevice() == current


def arrays_on(device, *arrays):
    return [gc.asarray(array, device) for array in arrays]


def assert_on(device, array, expected):
    assert gc.device_of(array) == device
    np.testing.assert_allclose(gc.to_numpy(array), expected, rtol=1e-5, atol=1e-5)


def test_new_results_are_allocated_on_the_arrays_device(other):
    (x,) = arrays_on(other, X)
    assert_on(other, ops.relu(x), np.maximum(X, 0))
    for result, expected in zip(ops.max_pool2d(x, kernel_size=2), ops.max_pool2d(X, kernel_size=2), strict=True):
        assert_on(other, result, expected)


def test_out_is_written_on_its_device_and_returned(other):
    x, out = arrays_on(other, X, np.zeros_like(X))
    assert ops.relu(x, out=out) is out
    assert_on(other, out, np.maximum(X, 0))
    assert ops.relu(x, out=x) is x
    assert_on(other, x, np.maximum(X, 0))


def test_an_input_that_overlaps_the_output_is_copied_on_its_device(other):
    (memory,) = arrays_on(other, np.concatenate([X, X]).ravel())
    x, out = (memory[at : at + X.size].reshape(X.shape) for at in (0, 8))
    ops.relu(x, out=out)
    assert_on(other, out, np.maximum(X, 0))


def test_ops_on_lists_run_on_the_arrays_device(other):
    params, grads = arrays_on(other, X, WEIGHT), arrays_on(other, X + 1, WEIGHT + 1)
    ops.sgd_step(params, grads, lr=0.5)
    for param, expected in zip(params, (X - 0.5 * (X + 1), WEIGHT - 0.5 * (WEIGHT + 1)), strict=True):
        assert_on(other, param, expected)


def test_gradients_accumulate_on_the_arrays_device(other):
    dy, rows, dw, db = arrays_on(other, DY, ROWS, np.ones((4, 3), np.float32), np.ones(4, np.float32))
    assert ops.linear_wgrad(dy, rows, out=dw, db=db, accumulate=True) is dw
    assert_on(other, dw, 1 + DY.T @ ROWS)
    assert_on(other, db, 1 + DY.sum(0))


def test_the_current_device_is_the_same_after_a_refusal(other):
    x, y = gc.asarray(X, other), gc.asarray(X, "cuda:0" if other == "cuda:1" else "cuda:1")
    with pytest.raises(TypeError, match=f"a is {other}, b is cuda"):
        ops.add(x, y)
    with pytest.raises(ValueError, match="b must have shape"):
        ops.add(x, x[:1])
