"""Batch and group normalization: values by hand, running statistics, gradients of all inputs, every dtype."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype
from tests.gradients import numerical_gradient
from tests.random_arrays import signed
from tests.tolerance import UNIT_ROUNDOFF, assert_within

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def batch_norm(x, gamma=None, beta=None, running=None, **options):
    """ops.batch_norm with the parameters and statistics of a new layer, unless others are given."""
    c, dtype = x.shape[-1], accumulation_dtype(x.dtype)
    gamma = np.ones(c, dtype) if gamma is None else gamma
    beta = np.zeros(c, dtype) if beta is None else beta
    mean, var = (np.zeros(c, dtype), np.ones(c, dtype)) if running is None else running
    return ops.batch_norm(x, gamma, beta, mean, var, **options)


def test_batch_norm_in_training_gives_the_values_computed_by_hand():
    x = np.array([[1.0, 10.0], [3.0, -10.0], [5.0, 0.0]])
    running = np.array([1.0, 1.0]), np.array([2.0, 2.0])
    y, mean, inv_std = batch_norm(
        x, np.array([2.0, 1.0]), np.array([0.5, -1.0]), running, training=True, momentum=0.25, eps=4 / 3
    )
    # Channel 0: mean 3, variance 8/3, and variance + eps = 2**2. Channel 1: mean 0, variance 200/3, and 68 with eps.
    np.testing.assert_allclose(mean, [3, 0], atol=1e-15)
    np.testing.assert_allclose(inv_std, [1 / 2, 1 / np.sqrt(68)])
    np.testing.assert_allclose(y[:, 0], [-2 + 0.5, 0.5, 2 + 0.5])
    np.testing.assert_allclose(y[:, 1], [10 / np.sqrt(68) - 1, -10 / np.sqrt(68) - 1, -1])
    np.testing.assert_allclose(running[0], [0.75 + 0.25 * 3, 0.75])
    np.testing.assert_allclose(running[1], [1.5 + 0.25 * 4, 1.5 + 0.25 * 100])  # the unbiased variance: 8/2, 200/2


def test_inference_uses_the_running_statistics_and_does_not_change_them():
    x, running = np.array([[3.0], [7.0]]), (np.array([5.0]), np.array([3.0]))
    y, mean, inv_std = batch_norm(x, running=running, training=False, eps=1.0)
    np.testing.assert_array_equal(y, [[-1], [1]])
    np.testing.assert_array_equal((mean, inv_std), ([5], [0.5]))
    np.testing.assert_array_equal(running, ([5], [3]))
    assert not np.shares_memory(mean, running[0]), "the mean must be a copy, since backward needs the mean of this call"


def test_a_mean_far_from_zero_causes_no_cancellation():
    x = (10000 + np.array([[-1.0], [1.0], [-1.0], [1.0]])).astype(np.float32)
    y, _, _ = batch_norm(x, training=True, eps=0.0)
    # In float32, the mean square minus the squared mean would be 0 in place of 1.
    np.testing.assert_array_equal(y, x - 10000)


SHAPES = [(7, 3), (2, 1), (3, 5, 7, 2), (2, 1, 1, 3), (5, 3, 1), (3, 2, 4, 2)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_numerical_ones(shape, training):
    x, dy = signed(shape) * 2 + 1, signed(shape, 1)
    c = shape[-1]
    gamma, beta = signed(c, 2), signed(c, 3)
    statistics = signed(c, 4), np.abs(signed(c, 5)) + 0.5

    def forward():
        return batch_norm(x, gamma, beta, map(np.copy, statistics), training=training, eps=1e-2)[0]

    _, mean, inv_std = batch_norm(x, gamma, beta, map(np.copy, statistics), training=training, eps=1e-2)
    gradients = ops.batch_norm_backward(dy, x, gamma, mean, inv_std, training=training)
    for name, gradient, argument in zip(("dx", "dgamma", "dbeta"), gradients, (x, gamma, beta)):
        numerical = numerical_gradient(forward, argument, dy)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_with_an_addend_agree_with_numerical_ones(shape, activation):
    x, addend, dy = signed(shape) * 2 + 1, signed(shape, 1), signed(shape, 2)
    gamma, beta = signed(shape[-1], 3), signed(shape[-1], 4)

    def forward(applied=activation):
        return batch_norm(x, gamma, beta, training=True, eps=1e-2, activation=applied, addend=addend)

    y, mean, inv_std = forward()
    saved = y if activation == "relu" else forward(None)[0]
    gradients = ops.batch_norm_backward(dy, x, gamma, mean, inv_std, activation=activation, saved=saved)
    for name, gradient, argument in zip(
        ("dx", "dgamma", "dbeta", "daddend"), gradients, (x, gamma, beta, addend), strict=True
    ):
        numerical = numerical_gradient(lambda: forward()[0], argument, dy)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_an_addend_gives_the_bits_of_separate_ops(training, dtype):
    x, addend, dy = (signed((3, 4, 5, 6), seed).astype(as_dtype(dtype)) for seed in range(3))
    z, mean, inv_std = batch_norm(x, training=training)
    y = ops.relu(ops.add(z, addend))
    fused, *_ = batch_norm(x, training=training, activation="relu", addend=addend)
    np.testing.assert_array_equal(fused, y)
    held = addend.copy()
    assert batch_norm(x, training=training, activation="relu", addend=held, out=held)[0] is held
    np.testing.assert_array_equal(held, y)
    gamma, dz = np.ones_like(mean), ops.relu_backward(dy, y)
    separate = ops.batch_norm_backward(dz, x, gamma, mean, inv_std, training=training)
    *gradients, daddend = ops.batch_norm_backward(
        dy, x, gamma, mean, inv_std, activation="relu", saved=y, training=training
    )
    for one, other in zip([*gradients, daddend], [*separate, dz], strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_through_a_fused_max_pool_equal_values_computed_by_hand():
    """A mask sends the gradient of each 2x2 window to one pixel: here to the first of one window, to the second of the
    next, and so on. The fifth row and column lie in no window."""
    dy, x, one = np.arange(1.0, 5).reshape(1, 2, 2, 1), np.zeros((1, 2, 2, 1)), np.ones(1)
    mask = np.array([1, 2, 4, 8], np.uint8).reshape(1, 2, 2, 1)
    options = dict(mask=mask, input_shape=(1, 5, 5, 1), training=False)
    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, 3 * one, 0 * one, 2 * one, **options)
    expected = [[1, 0, 0, 2, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [3, 0, 0, 4, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(dx[0, :, :, 0], 6 * np.array(expected))
    assert (dgamma, dbeta) == (0, 10)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_every_dtype_is_within_its_bound(dtype):
    x, dy = ((signed((5, 7, 3, 4), seed) * 3 + 1).astype(as_dtype(dtype)) for seed in (0, 1))
    wide = accumulation_dtype(x.dtype)
    gamma, beta = signed(4, 2).astype(wide), signed(4, 3).astype(wide)
    m = 5 * 7 * 3
    y, mean, inv_std = batch_norm(x, gamma, beta, training=True)
    assert (y.dtype, mean.dtype, inv_std.dtype) == (x.dtype, wide, wide)

    exact, exact_dy = x.astype(np.float64), dy.astype(np.float64)
    g, b = gamma.astype(np.float64), beta.astype(np.float64)
    expected, exact_mean, exact_inv_std = batch_norm(exact, g, b, training=True)
    unit = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    reduced = 8 * m * unit  # the error of a sum of m values, each at most a few standard deviations from the mean
    assert_within(mean, exact_mean, reduced)
    assert_within(inv_std, exact_inv_std, reduced * exact_inv_std)
    assert_within(y, expected, UNIT_ROUNDOFF[dtype] * abs(expected) + 8 * reduced)

    # Both backward passes take the same statistics, so that only their own errors count.
    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, inv_std)
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (x.dtype, wide, wide)
    expected = ops.batch_norm_backward(exact_dy, exact, g, mean.astype(np.float64), inv_std.astype(np.float64))
    magnitude = abs(exact_dy).sum((0, 1, 2))
    assert_within(dx, expected[0], UNIT_ROUNDOFF[dtype] * abs(expected[0]) + 8 * reduced)
    assert_within(dgamma, expected[1], 8 * m * unit * magnitude)
    assert_within(dbeta, expected[2], 2 * m * unit * magnitude)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_out_may_be_strided_and_gradients_accumulate(dtype):
    x, dy = (signed((7, 5, 3), seed).astype(as_dtype(dtype)) for seed in (0, 1))
    wide = accumulation_dtype(x.dtype)
    gamma = signed(3, 2).astype(wide)
    expected, mean, inv_std = batch_norm(x, gamma, training=True)
    out = np.full((7, 5, 6), np.nan, x.dtype)[..., ::2]
    assert batch_norm(x, gamma, training=True, out=out)[0] is out
    np.testing.assert_array_equal(out, expected)

    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, inv_std)
    dgamma_sum, dbeta_sum = np.full(3, 10, wide), np.full(3, -20, wide)
    result = ops.batch_norm_backward(
        dy, x, gamma, mean, inv_std, out=out, dgamma=dgamma_sum, dbeta=dbeta_sum, accumulate=True
    )
    assert result[0] is out
    assert result[1] is dgamma_sum
    assert result[2] is dbeta_sum
    np.testing.assert_array_equal(out, dx)  # dx does not depend on the earlier sums
    added = np.array([dgamma, dbeta], np.float64)
    total = np.add(added, [[10], [-20]])
    unit = UNIT_ROUNDOFF[wide.name]  # one rounding of the gradient, and one of its sum with the earlier value
    assert_within((dgamma_sum, dbeta_sum), total, unit * (abs(added) + abs(total)))
    ops.batch_norm_backward(dy, x, gamma, mean, inv_std, dgamma=dgamma_sum, dbeta=dbeta_sum)
    np.testing.assert_array_equal((dgamma_sum, dbeta_sum), (dgamma, dbeta))

    target = x.copy()  # dx may overwrite x or dy
    np.testing.assert_array_equal(ops.batch_norm_backward(dy, target, gamma, mean, inv_std, out=target)[0], dx)
    target = dy.copy()
    np.testing.assert_array_equal(ops.batch_norm_backward(target, x, gamma, mean, inv_std, out=target)[0], dx)
    np.testing.assert_array_equal(batch_norm(x, gamma, training=True, out=x)[0], expected)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_an_activation_is_applied_to_the_rounded_value(activation, dtype):
    x = (signed((7, 5, 3)) * 2).astype(as_dtype(dtype))
    plain, *statistics = batch_norm(x, training=True)
    y, *same_statistics = batch_norm(x, training=True, activation=activation)
    np.testing.assert_array_equal(y, getattr(ops, activation)(plain))
    np.testing.assert_array_equal(same_statistics, statistics)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_gradients_with_an_activation_agree_with_numerical_ones(activation, training):
    x, dy = signed((7, 3)) * 2 + 1, signed((7, 3), 1)
    gamma, beta = signed(3, 2), signed(3, 3)
    options = dict(training=training, eps=1e-2)
    statistics = signed(3, 4), np.abs(signed(3, 5)) + 0.5

    def forward():
        return batch_norm(x, gamma, beta, map(np.copy, statistics), activation=activation, **options)[0]

    _, mean, inv_std = batch_norm(x, gamma, beta, map(np.copy, statistics), **options)
    gradients = ops.batch_norm_backward(
        dy, x, gamma, mean, inv_std, beta=beta, activation=activation, training=training
    )
    for name, gradient, argument in zip(("dx", "dgamma", "dbeta"), gradients, (x, gamma, beta)):
        numerical = numerical_gradient(forward, argument, dy)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-8, err_msg=name)


def test_inputs_are_not_changed():
    x, dy, gamma = signed((7, 5)), signed((7, 5), 1), signed(5, 2)
    copies = x.copy(), dy.copy(), gamma.copy()
    _, mean, inv_std = batch_norm(x, gamma, training=True)
    ops.batch_norm_backward(dy, x, gamma, mean, inv_std)
    for array, copy in zip((x, dy, gamma), copies):
        np.testing.assert_array_equal(array, copy)


def test_nan_stays_in_its_channel():
    x = signed((5, 3))
    x[2, 1] = np.nan
    y, _, _ = batch_norm(x, training=True)
    np.testing.assert_array_equal(np.isnan(y), np.tile([False, True, False], (5, 1)))


def test_an_empty_batch_is_accepted_except_in_training():
    x = np.zeros((0, 2, 3), np.float32)
    y, mean, inv_std = batch_norm(x, training=False)
    assert y.shape == x.shape
    dx, dgamma, dbeta = ops.batch_norm_backward(y, x, mean + 1, mean, inv_std, training=False)
    assert dx.shape == x.shape
    np.testing.assert_array_equal((dgamma, dbeta), np.zeros((2, 3)))
    running = np.zeros(3, np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="more than one value for each channel"):
        batch_norm(x, running=running, training=True)
    np.testing.assert_array_equal(running, (np.zeros(3), np.ones(3)))


@pytest.mark.parametrize("training", [True, False])
def test_volumes_without_channels_give_empty_results(training):
    x, none = np.zeros((2, 3, 3, 0), np.float32), np.zeros(0, np.float32)
    y, mean, inv_std = batch_norm(x, training=training)
    assert y.shape == x.shape
    assert mean.shape == inv_std.shape == (0,)
    dx, dgamma, dbeta = ops.batch_norm_backward(x, x, none, mean, inv_std, training=training)
    assert dx.shape == x.shape
    assert dgamma.shape == dbeta.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 4), st.integers(0, 99))
def test_the_normalized_batch_has_mean_0_and_variance_1(leading, channels, seed):
    x = signed((2, *leading, channels), seed) * 7 + 3
    y, _, _ = batch_norm(x, training=True, eps=0.0)
    axes = tuple(range(y.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-9)
    np.testing.assert_allclose(y.var(axes), 1, atol=1e-9)


def test_group_norm_gives_the_values_computed_by_hand():
    x = np.array([[[1.0, 3, 10, 10], [5, 7, 10, 10]], [[0, 0, -1, 1], [0, 0, 1, -1]]])
    y, mean, inv_std = ops.group_norm(x, np.array([1.0, 2, 1, 1]), np.array([0.0, 0, 5, 0]), groups=2, eps=4.0)
    np.testing.assert_array_equal(mean, [[4, 10], [0, 0]])
    np.testing.assert_allclose(inv_std, [[1 / 3, 1 / 2], [1 / 2, 1 / 5**0.5]])  # the variances are 5, 0, 0, 1
    np.testing.assert_allclose(y[0], [[-1, -2 / 3, 5, 0], [1 / 3, 2, 5, 0]], atol=1e-15)
    dy = np.zeros(x.shape)
    dy[0, 0] = 1, 0, 1, 0
    dx, dgamma, dbeta = ops.group_norm_backward(dy, x, np.ones(4), mean, inv_std)
    np.testing.assert_allclose(dgamma, [-1, 0, 0, 0])
    np.testing.assert_array_equal(dbeta, [1, 0, 1, 0])
    np.testing.assert_allclose(dx[0, :, 2:], [[3 / 8, -1 / 8], [-1 / 8, -1 / 8]])  # xhat is 0, so only the mean counts
    # (g - 1 / 4 + xhat / 4) / 3, with g = 1, 0, 0, 0 and xhat = -1, -1 / 3, 1 / 3, 1
    np.testing.assert_allclose(dx[0, :, :2], [[1 / 6, -1 / 9], [-1 / 18, 0]], atol=1e-15)
