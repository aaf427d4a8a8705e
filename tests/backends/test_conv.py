"""Convolutions: by hand, by definition, by numerical gradients, against SciPy, in every dtype."""

import numpy as np
import pytest
from hypothesis import example, given, settings

from gpuconv import ops
from gpuconv.dtypes import as_dtype
from gpuconv.verify.conv_problems import ODD, TINY, conv, random_arrays, random_convolutions
from tests.backends.conv_checks import check_by_definition, directions
from tests.gradients import numerical_gradient

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
    # Four bits per filter mark the maximum of a window: the first of two equal ones, and none if it is zero or NaN.
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
    # Four bits per filter mark the maximum of a window, whatever its sign: the first of equal ones, or the first NaN.
    # No bit is set past the last filter.
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


@pytest.mark.parametrize("case", TINY + ODD)
def test_ops_agree_with_the_definition(case):
    check_by_definition(case)


@settings(max_examples=60, deadline=None)
@example(conv(0, 1, 4, 1, 1, 1, stride=(1, 2), dilation=(1, 3)))  # no image, a phase without a tap
@given(random_convolutions())
def test_random_shapes_agree_with_the_definition(case):
    check_by_definition(case)


@pytest.mark.parametrize("case", [case for case in TINY + ODD if case.n * case.h * case.w * case.c < 500])
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
@pytest.mark.parametrize("case", [TINY[2], ODD[0], ODD[5], ODD[8], ODD[20]])
def test_narrower_dtypes_are_within_their_bounds(case, name):
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


@pytest.mark.parametrize("padding", [0, 1])  # the fast NumPy code computes the gradients in another way if padded
def test_a_bias_gradient_is_not_rounded_to_tf32(padding):
    x, w, _, dy = random_arrays(conv(1, 4, 4, 4, 4, 3, padding=padding), np.float32)
    options = dict(padding=padding, tf32=True)
    for call in (
        lambda db: ops.conv2d_backward(dy, x, w, **options, db=db),
        lambda db: ops.conv2d_wgrad(dy, x, kernel_size=3, **options, db=db),
    ):
        db = np.empty(4, np.float32)
        call(db)
        np.testing.assert_array_equal(db, ops.bias_grad(dy))


def test_the_same_inputs_give_the_same_bits():
    case = conv(5, 16, 16, 16, 24, 3, padding=1)
    arrays = random_arrays(case, np.float32)
    first, second = directions(case, *arrays), directions(case, *arrays)
    for direction in first:
        assert first[direction].tobytes() == second[direction].tobytes()
