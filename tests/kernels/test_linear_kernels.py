"""Linear layers run on the convolution kernels. These tests cover their shapes, views, and thin and deep products."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device, random
from tests.tolerance import assert_within

OPS = ("linear", "linear_dgrad", "linear_wgrad")

# (N, in_features, out_features)
SHAPES = [(1, 1, 1), (3, 7, 5), (0, 4, 3), (1, 768, 10), (33, 130, 65), (128, 12, 10), (7, 3072, 10)]


def arguments(op, rng, shape, dtype):
    n, c, k = shape
    x, w, bias, dy = (random(rng, size, dtype) for size in ((n, c), (k, c), (k,), (n, k)))
    return {"linear": [x, w, bias], "linear_dgrad": [dy, w], "linear_wgrad": [dy, x]}[op]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_linear_ops_agree_with_the_oracle(device, rng, op, shape, dtype):
    arrays = arguments(op, rng, shape, dtype)
    (expected,) = expected_results(op, arrays, {})
    result = on_device(op, device, *arrays)
    assert result.dtype == as_dtype(dtype)
    assert_within(result, expected.value, expected.bound, f"{op} {shape}")


@pytest.mark.parametrize("op", OPS)
def test_a_deep_product_gives_the_same_bits_in_several_thread_orders(device, rng, op):
    assert_same_bits(op, device, *arguments(op, rng, (600, 700, 9), "float32"))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_bias_and_activation_agree_with_the_oracle(device, rng, activation):
    x, w, bias = arguments("linear", rng, (5, 1200, 6), "float32")
    for arrays in ([x, w, bias], [x, w, None]):
        (expected,) = expected_results("linear", arrays, dict(activation=activation))
        assert_within(on_device("linear", device, *arrays, activation=activation), expected.value, expected.bound)


@pytest.mark.parametrize("op", OPS)
def test_transposed_inputs_and_outputs_give_the_same_bits(device, rng, op):
    arrays = arguments(op, rng, (6, 9, 4), "float32")
    expected = on_device(op, device, *arrays)
    transposed = [asarray(np.ascontiguousarray(a.T), device).T for a in arrays]
    out = asarray(np.full(expected.shape[::-1], np.nan, np.float32), device).T
    assert getattr(ops, op)(*transposed, out=out) is out
    np.testing.assert_array_equal(to_numpy(out), expected)


def test_wgrad_accumulates_into_a_view(device, rng):
    dy, x = arguments("linear_wgrad", rng, (6, 9, 4), "float32")
    (expected,) = expected_results("linear_wgrad", [dy, x], {})
    dw = asarray(np.ones((9, 4), np.float32), device).T
    assert ops.linear_wgrad(asarray(dy, device), asarray(x, device), out=dw, accumulate=True) is dw
    assert_within(to_numpy(dw), expected.value + 1, expected.bound + 2.0**-22 * np.abs(expected.value + 1))
