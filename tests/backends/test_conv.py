"""Convolutions: by hand, by definition, by numerical gradients, against SciPy, in every dtype."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings

from gpuconv import ops
from gpuconv.dtypes import as_dtype
from gpuconv.verify.conv_problems import ODD, TINY, conv, random_arrays, random_convolutions
from tests.backends.conv_checks import both_gradients, check_by_definition, directions
from tests.gradients import numerical_gradient
from tests.tolerance import assert_within, sum_bound

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


# --- by hand -----------------------------------------------------------------------------------


def volume(rows):
    return np.array(rows, np.float64)[None, :, :, None]


X = volume([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
W = volume([[1, -1], [2, 0]])


def test_fprop_gives_the_values_computed_by_hand():
    np.testing.assert_array_equal(ops.conv2d(X, W), volume([[1 - 2 + 8, 2 - 3 + 10], [4 - 5 + 14, 5 - 6 + 16]]))


def test_fprop_with_bias_and_activation_gives_the_values_computed_by_hand():
    y = ops.conv2d(X, -W, np.array([8.0]), activation="relu")
    np.testing.assert_array_equal(y, volume([[1, 0], [0, 0]]))


def test_fprop_with_uneven_padding_and_stride_gives_the_values_computed_by_hand():
    # Windows begin at rows -1 and 1 and at columns 0 and 2; row -1 and column 3 are padding.
    y = ops.conv2d(X, W, stride=2, padding=((1, 0), (0, 1)))
    np.testing.assert_array_equal(y, volume([[2, 6], [4 - 5 + 14, 6 + 18]]))


def test_dilation_2_skips_a_pixel_between_two_taps():
    np.testing.assert_array_equal(ops.conv2d(X, W, dilation=2), volume([[1 - 3 + 14]]))


@pytest.mark.parametrize(("fit", "expected"), [("floor", [[7]]), ("cover", [[7, 3 + 12], [7 - 8, 9]])])
def test_each_fit_gives_the_values_computed_by_hand(fit, expected):
    np.testing.assert_array_equal(ops.conv2d(X, W, stride=2, fit=fit), volume(expected))


def test_exact_fit_names_the_sizes_that_would_fit():
    with pytest.raises(ValueError, match="2 or 4"):
        ops.conv2d(X, W, stride=2, fit="exact")


def test_a_grouped_convolution_gives_the_values_computed_by_hand():
    x = np.array([[[[1.0, 10.0, 100.0, 1000.0]]]])
    w = np.array([[1.0, 2.0], [3.0, 4.0]])[:, None, None]
    np.testing.assert_array_equal(ops.conv2d(x, w, groups=2), [[[[1 + 20, 300 + 4000]]]])


def test_depthwise_with_two_filters_a_channel_gives_the_values_computed_by_hand():
    x = np.array([[[[1.0, 10.0]]]])
    w = np.array([1.0, 2.0, 3.0, 4.0])[:, None, None, None]
    np.testing.assert_array_equal(ops.conv2d(x, w, groups=2), [[[[1, 2, 30, 40]]]])


def test_relu_and_pool_give_the_values_computed_by_hand():
    x = volume([[1, -2, 3, 9], [2, 2, -1, 9], [-1, -3, np.nan, 9], [-2, -1, 5, 9], [8, 8, 8, 8]])
    w = np.array([1.0, -1.0])[:, None, None, None]
    y, mask = ops.conv2d_relu(x, w, pool=2)
    np.testing.assert_array_equal(y, [[[[2, 2], [9, 1]], [[0, 3], [np.nan, np.nan]]]])
    # Four bits per filter: the first of two equals, nothing at zero and NaN.
    np.testing.assert_array_equal(mask, [[[[0b0010_0100], [0b0100_0010]], [[0b0010_0000], [0]]]])
    dx = ops.conv2d_dgrad(np.ones_like(y), w, input_shape=x.shape, mask=mask, pool=2)
    np.testing.assert_array_equal(dx, volume([[0, -1, 0, 1], [1, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    y, mask = ops.conv2d_relu(x[:, :1], np.ones((9, 1, 1, 1)))
    np.testing.assert_array_equal(mask, [[[[255, 1], [0, 0], [255, 1], [255, 1]]]])  # one bit per filter
    db = np.ones(9)
    ops.conv2d_wgrad(y, x[:, :1], kernel_size=1, mask=mask, out=np.zeros((9, 1, 1, 1)), db=db, accumulate=True)
    np.testing.assert_array_equal(db, [14] * 9)


def test_a_pool_without_relu_gives_the_values_computed_by_hand():
    x = volume([[1, -2, 3, 9], [2, 2, -1, 9], [-1, -3, np.nan, 9], [-2, -1, 5, 9], [8, 8, 8, 8]])
    w = np.array([1.0, -1.0, 0.0])[:, None, None, None]
    y, mask = ops.conv2d_relu(x, w, pool=2, activation=None)
    nan = np.nan
    np.testing.assert_array_equal(y, [[[[2, 2, 0], [9, 1, 0]], [[-1, 3, 0], [nan, nan, nan]]]])
    # Four bits per filter: the first of equals, whatever its sign, or the first NaN; none past the last filter.
    rows = [[[0b0010_0100, 1], [0b0100_0010, 1]], [[0b0010_0001, 1], [0b0001_0001, 1]]]
    np.testing.assert_array_equal(mask, [rows])
    dx = ops.conv2d_dgrad(np.ones_like(y), w, input_shape=x.shape, mask=mask, pool=2)
    np.testing.assert_array_equal(dx, volume([[0, -1, 0, 1], [1, 0, -1, 0], [1, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    normed = ops.conv2d_batch_norm(x, w, None, *np.ones((4, 3)), pool=2)
    np.testing.assert_array_equal(normed[1], y)
    np.testing.assert_array_equal(normed[4], mask)
    y, mask = ops.conv2d_relu(x, w, activation=None)
    np.testing.assert_array_equal(y, ops.conv2d(x, w))
    np.testing.assert_array_equal(mask, np.full((1, 5, 4, 1), 0b111))


def test_gradients_equal_values_computed_by_hand():
    dy = volume([[1, 2], [3, 4]])
    dx = ops.conv2d_dgrad(dy, W, input_shape=X.shape)
    np.testing.assert_array_equal(dx, volume([[1, 1, -2], [5, 5, -4], [6, 8, 0]]))
    dw = ops.conv2d_wgrad(dy, X, kernel_size=2)
    expected = [[1 + 4 + 12 + 20, 2 + 6 + 15 + 24], [4 + 10 + 21 + 32, 5 + 12 + 24 + 36]]
    np.testing.assert_array_equal(dw, volume(expected))
    np.testing.assert_array_equal(ops.bias_grad(dy), [10])
    db = np.ones(1)
    both = ops.conv2d_backward(dy, X, W, dw=np.ones(W.shape), db=db, accumulate=True)
    np.testing.assert_array_equal(both[0], dx)
    np.testing.assert_array_equal(both[1], 1 + dw)
    np.testing.assert_array_equal(db, [11])


def test_pixels_that_no_window_reads_get_zero_gradient():
    dx = ops.conv2d_dgrad(np.ones((1, 2, 2, 1)), np.full((1, 1, 1, 1), 7.0), input_shape=(1, 4, 5, 1), stride=3)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[7, 0, 0, 7, 0], [0] * 5, [0] * 5, [7, 0, 0, 7, 0]])


# --- against the definition, numerical gradients, SciPy ------------------------------------------


@pytest.mark.parametrize("case", TINY + ODD, ids=str)
def test_ops_agree_with_the_definition(case):
    check_by_definition(case)


@settings(max_examples=60, deadline=None)
@example(conv(0, 1, 4, 1, 1, 1, stride=(1, 2), dilation=(1, 3)))  # no image, a phase without a tap
@given(random_convolutions())
def test_random_shapes_agree_with_the_definition(case):
    check_by_definition(case)


@pytest.mark.parametrize("case", [case for case in TINY + ODD if case.n * case.h * case.w * case.c < 500], ids=str)
def test_gradients_agree_with_numerical_ones(case):
    x, w, bias, dy = random_arrays(case)

    def forward():
        return ops.conv2d(x, w, bias, **case.window)

    analytic = directions(case, x, w, bias, dy)
    np.testing.assert_allclose(analytic["dgrad"], numerical_gradient(forward, x, dy, 1e-2), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(analytic["wgrad"], numerical_gradient(forward, w, dy, 1e-2), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ops.bias_grad(dy), numerical_gradient(forward, bias, dy, 1e-2), rtol=1e-9, atol=1e-10)


def test_fprop_equals_scipys_correlation():
    signal = pytest.importorskip("scipy.signal")
    x, w, bias, _ = random_arrays(conv(2, 11, 7, 3, 5, (3, 2)))
    expected = np.zeros((2, 9, 6, 5))
    for n, k, c in np.ndindex(2, 5, 3):
        expected[n, :, :, k] += signal.correlate2d(x[n, :, :, c], w[k, :, :, c], mode="valid")
    np.testing.assert_allclose(ops.conv2d(x, w, bias), expected + bias, rtol=1e-12, atol=1e-12)


def test_depthwise_is_a_dense_convolution_with_diagonal_filters():
    x, w, bias, dy = random_arrays(conv(2, 9, 7, 5, 5, 3, groups=5))
    dense = np.zeros((5, 3, 3, 5))
    dense[range(5), :, :, range(5)] = w[..., 0]
    np.testing.assert_allclose(ops.conv2d(x, w, bias, groups=5), ops.conv2d(x, dense, bias), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        ops.conv2d_wgrad(dy, x, kernel_size=3, groups=5)[..., 0],
        ops.conv2d_wgrad(dy, x, kernel_size=3)[range(5), :, :, range(5)],
        rtol=1e-12,
        atol=1e-12,
    )


# --- dtypes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", [TINY[2], ODD[0], ODD[5], ODD[8], ODD[20]], ids=str)
def test_dtypes_accumulate_wide_and_round_once(case, name):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    check_by_definition(case, as_dtype(name))


def test_halves_are_rounded_once_at_the_end():
    # float16 cannot hold 2049: rounding before the bias is added, or before accumulating into out, loses the 1.
    x, ones = np.array([2048, 1], np.float16).reshape(1, 1, 1, 2), np.ones((1, 1, 1, 2), np.float16)
    minus = np.array([-2048], np.float16)
    assert ops.conv2d(x, ones, minus).item() == 1
    assert ops.bias_grad(x.reshape(2, 1), out=minus.copy(), accumulate=True).item() == 1
    dy, pixels = np.ones((1, 1, 2, 1), np.float16), x.reshape(1, 1, 2, 1)
    total = minus.reshape(1, 1, 1, 1).copy()
    assert ops.conv2d_wgrad(dy, pixels, kernel_size=1, out=total, accumulate=True).item() == 1
    for call in (
        lambda out: ops.conv2d_dgrad(x, ones.reshape(2, 1, 1, 1), input_shape=out.shape, out=out, accumulate=True),
        lambda out: ops.conv2d_backward(x, ones[..., :1], ones.reshape(2, 1, 1, 1), out=out, accumulate_dx=True)[0],
    ):
        assert call(minus.reshape(1, 1, 1, 1).copy()).item() == 1


def test_a_value_too_large_for_a_half_becomes_infinite():
    x, w = np.full((1, 1, 1, 2), 300, np.float16), np.full((1, 1, 1, 2), 300, np.float16)
    assert ops.conv2d(x, w).item() == np.inf


# --- arrays of every kind ----------------------------------------------------------------------------

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
    x, w, _, _ = random_arrays(conv(1, 8, 8, 2, 3, 3))
    x[0, 4, 4, 1] = value
    finite = np.isfinite(ops.conv2d(x, w, padding=1))
    reads = np.zeros((1, 8, 8, 3), bool)
    reads[:, 3:6, 3:6] = True
    np.testing.assert_array_equal(finite, ~reads)
    dx, _ = ops.conv2d_backward(x, np.ones_like(x), np.ones((2, 3, 3, 2)), padding=1)
    np.testing.assert_array_equal(np.isfinite(dx), ~reads[..., :2])


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_nonfinite_gradient_affects_only_the_taps_that_read_it(value, padding):
    x, w, _, _ = random_arrays(conv(1, 8, 8, 2, 3, 3))
    x[0, 0, 0, 1] = value  # read by tap (0, 0) without padding, and by taps (0..1, 0..1) with padding
    _, dw = ops.conv2d_backward(np.ones((1, 6 + 2 * padding, 6 + 2 * padding, 3)), x, w, padding=padding)
    reads = np.zeros(w.shape, bool)
    reads[:, : 1 + padding, : 1 + padding, 1] = True
    np.testing.assert_array_equal(np.isfinite(dw), ~reads)


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
    for dw in (ops.conv2d_wgrad(dy, x, kernel_size=3, padding=1), *ops.conv2d_backward(dy, x, w, padding=1)):
        assert dw.flags.c_contiguous


def test_a_bias_gradient_is_not_rounded_to_tf32():
    x, w, _, dy = random_arrays(conv(1, 4, 4, 4, 4, 3, padding=1), np.float32)
    db = np.empty(4, np.float32)
    ops.conv2d_backward(dy, x, w, padding=1, tf32=True, db=db)
    np.testing.assert_array_equal(db, ops.bias_grad(dy))


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


def test_the_same_inputs_give_the_same_bits():
    case = conv(5, 16, 16, 16, 24, 3, padding=1)
    arrays = random_arrays(case, np.float32)
    first, second = directions(case, *arrays), directions(case, *arrays)
    for direction in first:
        assert first[direction].tobytes() == second[direction].tobytes()


# --- bad input -------------------------------------------------------------------------------------

x, w, bias, DY = np.ones((2, 5, 5, 4)), np.ones((6, 3, 3, 4)), np.ones(6), np.ones((2, 3, 3, 6))

BAD = {
    "rank of x": (ValueError, r"N, H, W, C", lambda: ops.conv2d(x[0], w)),
    "rank of w": (ValueError, r"K, R, S", lambda: ops.conv2d(x, w[0])),
    "channels": (ValueError, "4 channels.*received 3", lambda: ops.conv2d(x[..., :3], w)),
    "filter": (ValueError, "spans 3.*only 2", lambda: ops.conv2d(x[:, :2], w)),
    "dilated filter": (ValueError, "spans 7", lambda: ops.conv2d(x, w, dilation=3)),
    "stride 0": (ValueError, "stride", lambda: ops.conv2d(x, w, stride=0)),
    "stride 1.5": (TypeError, "stride", lambda: ops.conv2d(x, w, stride=1.5)),
    "dilation 0": (ValueError, "dilation", lambda: ops.conv2d(x, w, dilation=(1, 0))),
    "padding -1": (ValueError, "padding", lambda: ops.conv2d(x, w, padding=-1)),
    "groups": (ValueError, "groups", lambda: ops.conv2d(x, w, groups=3)),
    "groups of filters": (ValueError, "groups", lambda: ops.conv2d(x, w[..., :1], groups=4)),
    "dtypes": (TypeError, "float32", lambda: ops.conv2d(x, w.astype(np.float32))),
    "integers": (TypeError, "uint8", lambda: ops.conv2d(x.astype(np.uint8), w.astype(np.uint8))),
    "bias": (ValueError, r"bias.*\(6,\)", lambda: ops.conv2d(x, w, bias[:5])),
    "activation": (ValueError, "relu", lambda: ops.conv2d(x, w, activation="rellu")),
    "fit": (ValueError, "floor", lambda: ops.conv2d(x, w, fit="flor")),
    "shape of out": (ValueError, r"out.*\(2, 3, 3, 6\)", lambda: ops.conv2d(x, w, out=np.ones((2, 3, 3, 5)))),
    "dtype of out": (TypeError, "out", lambda: ops.conv2d(x, w, out=np.ones((2, 3, 3, 6), np.float32))),
    "a list": (TypeError, "list", lambda: ops.conv2d(x.tolist(), w)),
    "dy": (ValueError, "dy.*3, 3, 6", lambda: ops.conv2d_dgrad(x, w, input_shape=x.shape)),
    "input_shape": (ValueError, "input_shape", lambda: ops.conv2d_dgrad(DY, w, input_shape=(5, 5, 4))),
    "dy of wgrad": (ValueError, "dy", lambda: ops.conv2d_wgrad(np.ones((2, 4, 3, 6)), x, kernel_size=3)),
    "accumulate": (ValueError, "accumulate", lambda: ops.conv2d_wgrad(DY, x, kernel_size=3, accumulate=True)),
    "channels of backward": (ValueError, "4 channels", lambda: ops.conv2d_backward(DY, x[..., :3], w)),
    "accumulate of backward": (ValueError, "dw", lambda: ops.conv2d_backward(DY, x, w, accumulate=True)),
    "rank of dy": (ValueError, "dy", lambda: ops.bias_grad(np.ones(3))),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused(what):
    error, message, call = BAD[what]
    with pytest.raises(error, match=message):
        call()


def test_a_refused_call_changes_nothing():
    out = np.full((2, 3, 3, 6), 7.0)
    with pytest.raises(ValueError, match="channels"):
        ops.conv2d(x[..., :3], w, out=out)
    np.testing.assert_array_equal(out, 7)
