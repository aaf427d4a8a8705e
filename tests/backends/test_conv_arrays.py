"""Convolutions of arrays of every kind: strided, overwritten, accumulated into, empty, infinite and NaN."""

import math

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.verify.conv_problems import conv, random_arrays
from tests.backends.conv_checks import (
    both_gradients,
    check_taps_of_a_nonfinite_input,
    check_windows_of_a_nonfinite_input,
    directions,
)
from tests.tolerance import assert_within, sum_bound

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

SMALL = conv(2, 6, 8, 3, 4, 3, stride=(2, 1), padding=((1, 0), (2, 1)))


def test_non_contiguous_inputs_give_the_same_result():
    x, w, bias, dy = random_arrays(SMALL)
    expected = directions(SMALL, x, w, bias, dy)
    strided_x, strided_w, strided_dy = (np.repeat(np.flip(a, -1), 2, axis=0)[::2, ..., ::-1] for a in (x, w, dy))
    assert not any(a.flags.c_contiguous for a in (strided_x, strided_w, strided_dy))
    arrays = strided_x, strided_w, bias, strided_dy
    for direction, actual in (*directions(SMALL, *arrays).items(), *both_gradients(SMALL, *arrays).items()):
        np.testing.assert_allclose(actual, expected[direction], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["float64", "float16"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_out_receives_the_result_and_is_returned(name, contiguous):
    x, w, bias, dy = random_arrays(SMALL, name)
    results = directions(SMALL, x, w, bias, dy)
    results["bias"] = ops.bias_grad(dy)
    calls = {
        "fprop": lambda out: ops.conv2d(x, w, bias, **SMALL.window, out=out),
        "dgrad": lambda out: ops.conv2d_dgrad(dy, w, input_shape=x.shape, **SMALL.window, out=out),
        "wgrad": lambda out: ops.conv2d_wgrad(dy, x, kernel_size=3, **SMALL.window, out=out),
        "bias": lambda out: ops.bias_grad(dy, out=out),
    }
    dx, dw = ops.conv2d_backward(dy, x, w, **SMALL.window)
    results |= {"dx": dx, "dw": dw}
    calls |= {
        "dx": lambda out: ops.conv2d_backward(dy, x, w, **SMALL.window, out=out)[0],
        "dw": lambda out: ops.conv2d_backward(dy, x, w, **SMALL.window, dw=out)[1],
    }
    for direction, call in calls.items():
        expected = results[direction]
        shape = expected.shape if contiguous else (*expected.shape[:-1], 2 * expected.shape[-1])
        out = np.full(shape, np.nan, name)[..., :: 1 if contiguous else 2]
        assert call(out) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_accumulate_adds_to_out(name):
    x, w, _, dy = random_arrays(SMALL, name)
    initial = np.ones(w.shape, name), np.ones(w.shape[0], name)
    dw = ops.conv2d_wgrad(dy, x, kernel_size=3, **SMALL.window, out=initial[0], accumulate=True)
    db = ops.bias_grad(dy, out=initial[1], accumulate=True)
    assert dw is initial[0]
    assert db is initial[1]
    bound = 4 * sum_bound(name, 1, np.abs(dw.astype(np.float64)) + 1)
    assert_within(dw, 1 + ops.conv2d_wgrad(dy, x, kernel_size=3, **SMALL.window).astype(np.float64), bound)
    assert_within(db, 1 + ops.bias_grad(dy).astype(np.float64), bound[:, 0, 0, 0])


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
@pytest.mark.parametrize("case", [SMALL, conv(2, 9, 8, 4, 6, 2, stride=3, groups=2)], ids=["padded", "unread pixels"])
def test_dx_is_added_to_out(case, name):
    x, w, _, dy = random_arrays(case, name)
    initial = np.random.default_rng(0).standard_normal((*x.shape[:-1], 2 * x.shape[-1])).astype(name)
    gradient, dw = (array.astype(np.float64) for array in ops.conv2d_backward(dy, x, w, **case.window))
    before = initial[..., ::2].astype(np.float64)
    bound = 2 * sum_bound(name, math.prod(w.shape[:3]), np.abs(before) + np.abs(gradient) + 1)
    out = initial.copy()[..., ::2]
    assert ops.conv2d_dgrad(dy, w, input_shape=x.shape, **case.window, out=out, accumulate=True) is out
    assert_within(out, before + gradient, bound)
    np.testing.assert_array_equal(out[gradient == 0], initial[..., ::2][gradient == 0])
    out, dw_out = initial.copy()[..., ::2], np.ones_like(w)
    dx, _ = ops.conv2d_backward(dy, x, w, **case.window, out=out, accumulate_dx=True, dw=dw_out)
    assert dx is out
    assert_within(out, before + gradient, bound)
    np.testing.assert_array_equal(dw_out, dw)


def test_out_may_be_an_input():
    x, w, bias, _ = random_arrays(conv(3, 5, 5, 4, 4, 3))
    expected = ops.conv2d(x, w, bias, padding=1)
    assert ops.conv2d(x, w, bias, padding=1, out=x) is x
    np.testing.assert_array_equal(x, expected)
    expected = ops.conv2d_dgrad(x, w, input_shape=x.shape, padding=1)
    np.testing.assert_array_equal(ops.conv2d_dgrad(x, w, input_shape=x.shape, padding=1, out=x), expected)
    dy = ops.conv2d(x, w, padding=1)
    dx, dw = ops.conv2d_backward(dy, x, w, padding=1)
    dw += w
    sums = dy + dx
    ops.conv2d_backward(dy, x, w, padding=1, out=dy, accumulate_dx=True, dw=w, accumulate=True)
    np.testing.assert_array_equal(dy, sums)
    np.testing.assert_array_equal(w, dw)
    dx, dw = ops.conv2d_backward(dy, x, w, padding=1)
    _, dw_beside_dx = ops.conv2d_backward(dy, x, w, padding=1, out=x)
    np.testing.assert_array_equal(x, dx)
    np.testing.assert_array_equal(dw_beside_dx, dw)


def test_an_empty_batch_has_empty_outputs_and_zero_parameter_gradients():
    x, w, bias, dy = random_arrays(conv(0, 5, 7, 3, 2, 3))
    assert ops.conv2d(x, w, bias).shape == (0, 3, 5, 2)
    assert ops.conv2d_dgrad(dy, w, input_shape=x.shape).shape == x.shape
    np.testing.assert_array_equal(ops.conv2d_wgrad(dy, x, kernel_size=3), np.zeros(w.shape))
    np.testing.assert_array_equal(ops.conv2d_backward(dy, x, w)[1], np.zeros(w.shape))
    np.testing.assert_array_equal(ops.bias_grad(dy), np.zeros(2))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_nonfinite_input_affects_only_the_windows_that_read_it(value):
    check_windows_of_a_nonfinite_input(value)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_nonfinite_input_affects_only_the_taps_that_read_it(value, padding):
    check_taps_of_a_nonfinite_input(value, padding)


@pytest.mark.parametrize("k", [3, 64])
def test_nonfinite_gradients_raise_no_warnings(k):
    x, w, _, dy = random_arrays(conv(2, 8, 8, 3, k, 3, padding=1), np.float32)
    dy[0, 0, 0, 0], dy[1, 7, 7, 0], dy[..., 1] = np.inf, -np.inf, 3e38
    db = np.full((k,), np.inf, np.float32)
    for _ in range(2):
        ops.conv2d_backward(dy, x, w, padding=1, dw=np.full_like(w, -np.inf), db=db, accumulate=True)
        ops.conv2d_wgrad(dy, x, kernel_size=3, padding=1, out=np.full_like(w, -np.inf), db=db, accumulate=True)
    assert np.isnan(db[0])
    assert np.isnan(ops.bias_grad(dy)[0])


@pytest.mark.parametrize("k", [8, 12, 80])
def test_gradients_are_contiguous(k):
    x, w, _, dy = random_arrays(conv(2, 8, 8, 3, k, 3, padding=1))
    for gradient in (ops.conv2d_wgrad(dy, x, kernel_size=3, padding=1), *ops.conv2d_backward(dy, x, w, padding=1)):
        assert gradient.flags.c_contiguous


def test_zero_channels_give_the_bias_and_zero_filters_give_nothing():
    x, w = np.ones((2, 3, 4, 0)), np.ones((2, 3, 3, 0))
    np.testing.assert_array_equal(ops.conv2d(x, w, np.array([1.0, 2.0]))[0], [[[1, 2], [1, 2]]])
    assert ops.conv2d(np.ones((2, 3, 4, 1)), np.ones((0, 3, 3, 1))).shape == (2, 1, 2, 0)
    dy = np.ones((2, 1, 2, 0))
    np.testing.assert_array_equal(ops.conv2d_dgrad(dy, np.ones((0, 3, 3, 1)), input_shape=(2, 3, 4, 1)), 0)
    assert ops.conv2d_wgrad(dy, np.ones((2, 3, 4, 1)), kernel_size=3).shape == (0, 3, 3, 1)
    dx, dw = ops.conv2d_backward(dy, np.ones((2, 3, 4, 1)), np.ones((0, 3, 3, 1)))
    np.testing.assert_array_equal(dx, np.zeros((2, 3, 4, 1)))
    assert dw.shape == (0, 3, 3, 1)
    assert [a.shape for a in ops.conv2d_backward(np.ones((2, 1, 2, 2)), x, w)] == [x.shape, w.shape]


def test_a_refused_call_changes_nothing():
    out = np.full((2, 3, 3, 6), 7.0)
    with pytest.raises(ValueError, match="must have 4 channels, received 3"):
        ops.conv2d(np.ones((2, 5, 5, 3)), np.ones((6, 3, 3, 4)), out=out)
    np.testing.assert_array_equal(out, 7)
