"""Pools: values by hand, the rules for NaN, ties and padding, a plain loop as the reference, gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv import ops, window_sizes
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from tests.gradients import numerical_gradient
from tests.tolerance import assert_within, sum_bound

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

# (input H, W), kernel_size, stride, padding, fit
WINDOWS = [
    ((4, 4), (2, 2), (2, 2), 0, "floor"),
    ((7, 5), (3, 2), (2, 3), 0, "floor"),  # prime sizes, non-square, one stride above its kernel
    ((5, 7), (3, 3), (1, 1), "same", "floor"),  # overlapping
    ((7, 7), (2, 2), (2, 2), 0, "cover"),  # a last partial window
    ((5, 6), (3, 3), (2, 2), ((1, 0), (2, 1)), "cover"),  # uneven padding
    ((7, 11), (2, 3), (5, 4), ((1, 1), (0, 2)), "floor"),  # gaps between windows
    ((1, 1), (1, 1), (1, 1), 0, "exact"),  # one pixel
    ((1, 3), (2, 3), (1, 2), ((1, 0), (1, 1)), "exact"),  # one row, a window mostly in the padding
    ((2, 2), (2, 2), (3, 3), 1, "cover"),  # the last window is dropped, as it would begin outside
]
CHANNELS = 3


def values(shape, seed=0):
    """Signed numbers, all distinct until a dtype rounds them."""
    count = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(count) - count / 3).reshape(shape) / 8


def window_cells(hw, pq, kernel_size, stride, padding):
    """For each window (p, q), its pixels inside the input as (index inside the window, h, w)."""
    (top, _), (left, _) = padding
    for p, q in np.ndindex(pq):
        cells = [
            (r * kernel_size[1] + s, p * stride[0] + r - top, q * stride[1] + s - left)
            for r, s in np.ndindex(kernel_size)
        ]
        yield (p, q), [(k, h, w) for k, h, w in cells if 0 <= h < hw[0] and 0 <= w < hw[1]]


def slow_max_pool(x, kernel_size, stride, padding, fit):
    pq = window_sizes.output_hw(x.shape[1:3], kernel_size, stride, padding, fit=fit)
    y, argmax = np.empty((len(x), *pq, x.shape[3])), np.empty((len(x), *pq, x.shape[3]), int)
    for (p, q), cells in window_cells(x.shape[1:3], pq, kernel_size, stride, padding):
        for n in range(len(x)):
            for c in range(x.shape[3]):
                best, h, w = cells[0]
                largest = x[n, h, w, c]
                for index, h, w in cells[1:]:
                    value = x[n, h, w, c]
                    if value > largest or (np.isnan(value) and not np.isnan(largest)):
                        best, largest = index, value
                y[n, p, q, c], argmax[n, p, q, c] = largest, best
    return y, argmax


def slow_avg_pool(x, kernel_size, stride, padding, fit, count_include_pad):
    h, w = x.shape[1:3]
    pq = window_sizes.output_hw((h, w), kernel_size, stride, padding, fit=fit)
    y = np.empty((len(x), *pq, x.shape[3]))
    (top, bottom), (left, right) = padding
    for (p, q), cells in window_cells((h, w), pq, kernel_size, stride, padding):
        count = len(cells)
        if count_include_pad:
            rows = min(p * stride[0] + kernel_size[0], h + top + bottom) - p * stride[0]
            columns = min(q * stride[1] + kernel_size[1], w + left + right) - q * stride[1]
            count = rows * columns
        y[:, p, q] = sum(x[:, i, j] for _, i, j in cells) / count
    return y


def options_of(case):
    _, kernel_size, stride, padding, fit = case
    return dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)


def normalized(case):
    options = options_of(case)
    return options | dict(
        padding=window_sizes.padding_pairs(options["padding"], options["kernel_size"], options["stride"])
    )


# --- by hand -----------------------------------------------------------------------------------

HAND = np.array([[1.0, 5.0, -2.0], [3.0, 4.0, 0.0], [-7.0, 8.0, 6.0]]).reshape(1, 3, 3, 1)


def test_max_pool_gives_the_values_computed_by_hand():
    y, argmax = ops.max_pool2d(HAND, kernel_size=2, stride=1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 5], [8, 8]])
    np.testing.assert_array_equal(argmax[0, :, :, 0], [[1, 0], [3, 2]])
    dy = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 2, 2, 1)
    dx = ops.max_pool2d_backward(dy, argmax, input_shape=HAND.shape, kernel_size=2, stride=1)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 11, 0], [0, 0, 0], [0, 1100, 0]])


def test_stride_defaults_to_the_kernel_size():
    y, _ = ops.max_pool2d(HAND, kernel_size=(1, 3))
    np.testing.assert_array_equal(y[0, :, :, 0], [[5], [4], [8]])


def test_avg_pool_gives_the_values_computed_by_hand():
    y = ops.avg_pool2d(HAND, kernel_size=2, fit="cover")
    np.testing.assert_array_equal(y[0, :, :, 0], [[13 / 4, -1], [1 / 2, 6]])  # partial windows divide by their cells
    y = ops.avg_pool2d(HAND, kernel_size=2, stride=2, padding=((1, 0), (1, 0)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[1 / 4, 3 / 4], [-4 / 4, 18 / 4]])
    y = ops.avg_pool2d(HAND, kernel_size=2, stride=2, padding=((1, 0), (1, 0)), count_include_pad=False)
    np.testing.assert_array_equal(y[0, :, :, 0], [[1, 3 / 2], [-4 / 2, 18 / 4]])
    dx = ops.avg_pool2d_backward(
        np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1), input_shape=HAND.shape, kernel_size=2, fit="cover"
    )
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1 / 4, 1 / 4, 1], [1 / 4, 1 / 4, 1], [3 / 2, 3 / 2, 4]])


def test_global_avg_pool_gives_the_values_computed_by_hand():
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(ops.global_avg_pool2d(x), [[[[5, 6]]]])
    dx = ops.global_avg_pool2d_backward(np.array([6.0, -12.0]).reshape(1, 1, 1, 2), input_shape=x.shape)
    np.testing.assert_array_equal(dx, np.broadcast_to([1.0, -2.0], x.shape))
    assert dx.flags.writeable


# --- rules -------------------------------------------------------------------------------------


def max_of(*window, dtype="float64"):
    x = np.array(window).astype(as_dtype(dtype)).reshape(1, 1, -1, 1)
    y, argmax = ops.max_pool2d(x, kernel_size=(1, len(window)))
    return float(y.item()), argmax.item()


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_nan_wins_and_of_two_nans_the_first(dtype):
    y, argmax = max_of(1.0, np.nan, np.inf, np.nan, dtype=dtype)
    assert np.isnan(y)
    assert argmax == 1
    assert max_of(np.nan, 9.0, dtype=dtype)[1] == 0
    assert max_of(9.0, 1.0, np.nan, dtype=dtype)[1] == 2


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_ties_go_to_the_first(dtype):
    assert max_of(1.0, 3.0, 3.0, dtype=dtype) == (3.0, 1)
    assert max_of(-2.0, -2.0, dtype=dtype) == (-2.0, 0)
    assert max_of(np.inf, np.inf, dtype=dtype) == (np.inf, 0)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_zeros_of_either_sign_tie(dtype):
    for window in ((-0.0, 0.0), (0.0, -0.0)):
        y, argmax = max_of(*window, dtype=dtype)
        assert argmax == 0
        assert np.signbit(y) == np.signbit(window[0]), "the value must be the winner's, with its sign"


def test_padding_never_wins_even_against_minus_infinity():
    x = np.full((1, 3, 3, 1), -np.inf)
    y, argmax = ops.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    np.testing.assert_array_equal(y, np.full((1, 2, 2, 1), -np.inf))
    np.testing.assert_array_equal(argmax[0, :, :, 0], [[4, 3], [1, 0]])  # the first cell inside the input
    dx = ops.max_pool2d_backward(np.ones_like(y), argmax, input_shape=x.shape, kernel_size=3, stride=2, padding=1)
    assert dx.sum() == 4


def test_an_infinite_gradient_reaches_only_the_winning_element():
    _, argmax = ops.max_pool2d(HAND, kernel_size=2, stride=1)
    dy = np.array([[np.inf, 1.0], [2.0, np.nan]]).reshape(1, 2, 2, 1)
    dx = ops.max_pool2d_backward(dy, argmax, input_shape=HAND.shape, kernel_size=2, stride=1)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, np.inf, 0], [0, 0, 0], [0, np.nan, 0]])


@pytest.mark.parametrize(("kernel_size", "dtype"), [((16, 16), np.uint8), ((257, 1), np.uint16)])
def test_argmax_has_the_smallest_sufficient_dtype(kernel_size, dtype):
    x = np.zeros((1, *kernel_size, 1), np.float32)
    x[0, -1, -1, 0] = 1
    y, argmax = ops.max_pool2d(x, kernel_size=kernel_size)
    assert argmax.dtype == dtype
    assert (y.item(), argmax.item()) == (1, kernel_size[0] * kernel_size[1] - 1)
    dx = ops.max_pool2d_backward(y, argmax, input_shape=x.shape, kernel_size=kernel_size)
    np.testing.assert_array_equal(dx, x)


# --- against a plain loop ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("case", WINDOWS)
def test_max_pool_equals_the_loop(case, dtype):
    x = values((2, *case[0], CHANNELS)).astype(as_dtype(dtype))
    y, argmax = ops.max_pool2d(x, **options_of(case))
    expected, expected_argmax = slow_max_pool(x.astype(np.float64), **normalized(case))
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float64), expected)
    np.testing.assert_array_equal(argmax, expected_argmax)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", WINDOWS)
def test_avg_pool_equals_the_loop(case, count_include_pad, dtype):
    x = values((2, *case[0], CHANNELS)).astype(as_dtype(dtype))
    y = ops.avg_pool2d(x, **options_of(case), count_include_pad=count_include_pad)
    wide = x.astype(np.float64)
    cells = int(np.prod(options_of(case)["kernel_size"]))
    expected, magnitude = (
        slow_avg_pool(volume, **normalized(case), count_include_pad=count_include_pad) for volume in (wide, abs(wide))
    )
    assert y.dtype == x.dtype
    assert_within(y, expected, sum_bound(dtype, cells, magnitude))


@st.composite
def pools(draw):
    def axis():
        kernel = draw(st.integers(1, 4))
        before, after = (draw(st.integers(0, kernel - 1)) for _ in range(2))
        size = draw(st.integers(max(1, kernel - before - after), 9))
        return size, kernel, draw(st.integers(1, 5)), (before, after)

    (h, r, sh, vertical), (w, s, sw, horizontal) = axis(), axis()
    shape = (draw(st.integers(0, 3)), h, w, draw(st.integers(0, 3)))
    fit = draw(st.sampled_from(["floor", "cover"]))
    return shape, dict(kernel_size=(r, s), stride=(sh, sw), padding=(vertical, horizontal), fit=fit)


@settings(max_examples=60, deadline=None)
@given(pools(), st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0])), st.booleans())
def test_any_pool_equals_the_loop(pool, special, count_include_pad):
    shape, options = pool
    x = np.round(np.random.default_rng(7).normal(size=shape) * 2)  # many ties
    for index, value in enumerate(special[: x.size]):
        x.flat[index * 3 % x.size] = value
    y, argmax = ops.max_pool2d(x, **options)
    expected, expected_argmax = slow_max_pool(x, **options)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)

    dy = values(y.shape, 1)
    dx = ops.max_pool2d_backward(dy, argmax, input_shape=shape, **options)
    expected_dx, magnitude = np.zeros(shape), np.zeros(shape)
    (sh, sw), ((top, _), (left, _)) = options["stride"], options["padding"]
    for n, p, q, c in np.ndindex(y.shape):
        r, s = divmod(int(argmax[n, p, q, c]), options["kernel_size"][1])
        place = n, p * sh + r - top, q * sw + s - left, c
        expected_dx[place] += dy[n, p, q, c]
        magnitude[place] += abs(dy[n, p, q, c])
    # The sums may be in another order, and gradients may cancel.
    assert (abs(dx - expected_dx) <= 1e-13 * magnitude).all()

    finite = np.nan_to_num(x, posinf=3, neginf=-3)
    y = ops.avg_pool2d(finite, **options, count_include_pad=count_include_pad)
    np.testing.assert_allclose(y, slow_avg_pool(finite, **options, count_include_pad=count_include_pad), atol=1e-14)
    # The backward pass is the transpose: <dy, A x> = <A' dy, x>.
    dx = ops.avg_pool2d_backward(dy, input_shape=shape, **options, count_include_pad=count_include_pad)
    np.testing.assert_allclose(np.sum(dy * y), np.sum(dx * finite), atol=1e-11)


# --- gradients, out, dtypes --------------------------------------------------------------------


@pytest.mark.parametrize("case", WINDOWS)
def test_max_pool_gradients_agree_with_numerical_ones(case):
    x = values((2, *case[0], CHANNELS))  # multiples of 1/8, much farther apart than the step of 1e-5
    y, argmax = ops.max_pool2d(x, **options_of(case))
    dy = values(y.shape, 1)
    dx = ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, **options_of(case))
    numerical = numerical_gradient(lambda: ops.max_pool2d(x, **options_of(case))[0], x, dy)
    np.testing.assert_allclose(dx, numerical, atol=1e-6)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", WINDOWS)
def test_avg_pool_gradients_agree_with_numerical_ones(case, count_include_pad):
    options = options_of(case) | dict(count_include_pad=count_include_pad)
    x = values((2, *case[0], CHANNELS))
    dy = values(ops.avg_pool2d(x, **options).shape, 1)
    dx = ops.avg_pool2d_backward(dy, input_shape=x.shape, **options)
    np.testing.assert_allclose(dx, numerical_gradient(lambda: ops.avg_pool2d(x, **options), x, dy), atol=1e-6)


def test_global_avg_pool_gradients_agree_with_numerical_ones():
    x = values((2, 5, 7, 3))
    dy = values((2, 1, 1, 3), 1)
    dx = ops.global_avg_pool2d_backward(dy, input_shape=x.shape)
    np.testing.assert_allclose(dx, numerical_gradient(lambda: ops.global_avg_pool2d(x), x, dy), atol=1e-6)


@pytest.mark.parametrize(("dtype", "big"), [("float16", 2048.0), ("bfloat16", 256.0)])
def test_half_gradients_are_summed_in_float32_and_rounded_once(dtype, big):
    """big + 1 rounds to big in this dtype: a sum that rounds on the way would lose every 1."""
    x = np.zeros((1, 1, 1, 1), as_dtype(dtype))
    options = dict(kernel_size=(1, 9), stride=1, padding=((0, 0), (8, 8)))  # nine windows read this cell
    dy = np.array([big] + [1.0] * 8).astype(x.dtype).reshape(1, 1, 9, 1)
    _, argmax = ops.max_pool2d(x, **options)
    assert float(ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, **options).item()) == big + 8
    dx = ops.avg_pool2d_backward(dy, input_shape=x.shape, **options, count_include_pad=False)
    assert float(dx.item()) == big + 8


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_global_avg_pool_in_every_dtype_is_within_its_bound(dtype):
    x = values((2, 7, 5, 3)).astype(as_dtype(dtype))
    wide = x.astype(np.float64)
    y = ops.global_avg_pool2d(x)
    assert y.dtype == x.dtype
    assert_within(y, wide.mean((1, 2), keepdims=True), sum_bound(dtype, 35, abs(wide).mean((1, 2), keepdims=True)))
    dx = ops.global_avg_pool2d_backward(y, input_shape=x.shape)
    assert dx.dtype == x.dtype
    expected = np.broadcast_to(y.astype(np.float64) / 35, x.shape)
    assert_within(dx, expected, sum_bound(dtype, 1, expected))


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_out_receives_the_result(dtype):
    x = values((2, 7, 5, 3)).astype(as_dtype(dtype))
    y, argmax = ops.max_pool2d(x, kernel_size=2)
    dy = values(y.shape, 1).astype(x.dtype)
    one = dy[:, :1, :1]
    for call in (
        lambda out: ops.max_pool2d(x, kernel_size=2, out=out)[0],
        lambda out: ops.avg_pool2d(x, kernel_size=2, out=out),
        lambda out: ops.global_avg_pool2d(x, out=out),
        lambda out: ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, kernel_size=2, out=out),
        lambda out: ops.avg_pool2d_backward(dy, input_shape=x.shape, kernel_size=2, out=out),
        lambda out: ops.global_avg_pool2d_backward(one, input_shape=x.shape, out=out),
    ):
        expected = call(None)
        out = np.full((*expected.shape[:-1], 2 * expected.shape[-1]), np.nan, x.dtype)[..., ::2]  # poisoned, strided
        assert call(out) is out
        np.testing.assert_array_equal(out, expected)


def test_out_may_be_the_input():
    options = dict(kernel_size=3, stride=1, padding="same")
    x, dy = values((2, 5, 7, 3)), values((2, 5, 7, 3), 1)
    _, argmax = ops.max_pool2d(x, **options)
    for call, source in (
        (lambda x, out: ops.max_pool2d(x, **options, out=out)[0], x),
        (lambda x, out: ops.avg_pool2d(x, **options, out=out), x),
        (lambda dy, out: ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, **options, out=out), dy),
        (lambda dy, out: ops.avg_pool2d_backward(dy, input_shape=x.shape, **options, out=out), dy),
    ):
        expected, overwritten = call(source, None), source.copy()
        assert call(overwritten, overwritten) is overwritten
        np.testing.assert_array_equal(overwritten, expected)


def test_strided_inputs_give_the_same_bits():
    x = values((3, 5, 7, 4)).transpose(1, 3, 2, 0)[:, ::-1]
    y, argmax = ops.max_pool2d(x, kernel_size=2)
    expected, expected_argmax = ops.max_pool2d(x.copy(), kernel_size=2)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    strided_dy, strided_argmax = (np.repeat(a, 2, axis=0)[::2] for a in (values(y.shape, 1), argmax))
    for call in (
        lambda x, dy, argmax: ops.avg_pool2d(x, kernel_size=2),
        lambda x, dy, argmax: ops.global_avg_pool2d(x),
        lambda x, dy, argmax: ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, kernel_size=2),
        lambda x, dy, argmax: ops.avg_pool2d_backward(dy, input_shape=x.shape, kernel_size=2),
        lambda x, dy, argmax: ops.global_avg_pool2d_backward(dy[:, :1, :1], input_shape=x.shape),
    ):
        strided = x, strided_dy, strided_argmax
        np.testing.assert_array_equal(call(*strided), call(*(a.copy() for a in strided)))


def test_the_gradient_of_a_global_average_of_empty_maps_is_empty():
    for shape in ((1, 0, 3, 2), (2, 4, 0, 5)):
        dy = np.ones((shape[0], 1, 1, shape[3]))
        assert ops.global_avg_pool2d_backward(dy, input_shape=shape).shape == shape


def test_an_empty_batch_gives_an_empty_result():
    x = np.zeros((0, 5, 7, 3), np.float32)
    y, argmax = ops.max_pool2d(x, kernel_size=2)
    assert y.shape == argmax.shape == (0, 2, 3, 3)
    assert ops.max_pool2d_backward(y, argmax, input_shape=x.shape, kernel_size=2).shape == x.shape
    assert ops.avg_pool2d(x, kernel_size=2).shape == y.shape
    assert ops.avg_pool2d_backward(y, input_shape=x.shape, kernel_size=2).shape == x.shape
    assert ops.global_avg_pool2d(x).shape == (0, 1, 1, 3)
    assert ops.global_avg_pool2d_backward(y[:, :1, :1], input_shape=x.shape).shape == x.shape


def test_kernel_size_may_be_the_second_positional_argument_as_in_pytorch():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2))
    np.testing.assert_array_equal(ops.max_pool2d(x, 2)[0], ops.max_pool2d(x, kernel_size=2)[0])
    np.testing.assert_array_equal(ops.avg_pool2d(x, 2), ops.avg_pool2d(x, kernel_size=2))
