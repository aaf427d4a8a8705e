"""The kernel of the bias gradient, against the oracle."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import assert_same_bits, expected, on_device, random
from tests.kernels.column_shapes import SINGLE_NUMBERS, all_axes_but_the_last, shapes_and_dtypes
from tests.tolerance import assert_within, sum_bound


@shapes_and_dtypes
def test_bias_grad_is_within_its_bound(device, rng, shape, dtype):
    dy = random(rng, shape, dtype)
    bound = sum_bound(dtype, dy.size // shape[-1], np.abs(as_float64(dy)).sum(all_axes_but_the_last(dy)))
    assert_within(on_device("bias_grad", device, dy), expected("bias_grad", dy), bound)


def test_bias_grad_has_the_same_bits_in_several_thread_orders(device, rng):
    for shape in ((20000, 7), (5, 3), SINGLE_NUMBERS):
        assert_same_bits("bias_grad", device, random(rng, shape, "float32"))


@pytest.mark.parametrize("shape", [(6, 5), (20000, 7)])
def test_bias_grad_accumulates(device, rng, shape):
    dy, before = random(rng, shape, "float16"), random(rng, shape[-1:], "float16")
    out = asarray(np.repeat(before, 2), device)
    assert_within(
        to_numpy(ops.bias_grad(asarray(dy, device), out=out[::2], accumulate=True)),
        expected("bias_grad", dy) + as_float64(before),
        sum_bound("float16", shape[0], np.abs(as_float64(dy)).sum(0) + np.abs(as_float64(before))),
    )
    np.testing.assert_array_equal(to_numpy(out)[1::2], before)


def test_bias_grad_accepts_empty_arrays_and_views(device, rng):
    out = asarray(np.full(4, np.nan, np.float32), device)
    np.testing.assert_array_equal(to_numpy(ops.bias_grad(asarray(np.zeros((0, 4), np.float32), device), out=out)), 0)
    assert on_device("bias_grad", device, np.zeros((3, 0), np.float32)).shape == (0,)
    dy = random(rng, (9, 14), "float32")
    for view in (lambda x: x[::2, 1::3], lambda x: x.reshape(-1)[3 : 3 + 60].reshape(10, 6)):
        bound = sum_bound("float32", 10, np.abs(view(dy)).sum(0))
        assert_within(to_numpy(ops.bias_grad(view(asarray(dy, device)))), expected("bias_grad", view(dy)), bound)
