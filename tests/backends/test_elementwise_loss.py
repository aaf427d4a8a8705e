"""Losses that compare each score with a target: by hand, gradients, dtypes, outputs."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype
from tests.gradients import numerical_gradient

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

LOSSES = [
    (ops.mean_squared_error, {}),
    (ops.huber_loss, {}),
    (ops.huber_loss, {"delta": 0.25}),
    (ops.binary_cross_entropy, {}),
    (ops.binary_cross_entropy, {"pos_weight": np.array([0.5, 3.0, 1.0])}),
]
IDS = ["-".join([loss.__name__, *map(str, options)]) for loss, options in LOSSES]
every_loss = pytest.mark.parametrize(("loss", "options"), LOSSES, ids=IDS)


def batch(shape=(5, 2, 3), dtype="float64", seed=0):
    generator = np.random.default_rng(seed)
    return (3 * generator.normal(size=shape)).astype(as_dtype(dtype)), generator.random(shape).astype(as_dtype(dtype))


def of_dtype(options, dtype):
    wide = accumulation_dtype(as_dtype(dtype))
    return {name: value.astype(wide) if isinstance(value, np.ndarray) else value for name, value in options.items()}


def test_losses_and_gradients_equal_values_computed_by_hand():
    scores, targets = np.array([[1.0, 4.0], [-3.0, 0.0]]), np.array([[0.5, 1.0], [0.0, 0.0]])
    loss, dscores = ops.mean_squared_error(scores, targets)
    assert loss == (0.25 + 9 + 9) / 4
    np.testing.assert_array_equal(dscores, [[0.25, 1.5], [-1.5, 0]])
    loss, dscores = ops.huber_loss(scores, targets, delta=2.0)
    assert loss == (0.125 + 4 + 4) / 4
    np.testing.assert_array_equal(dscores, [[0.125, 0.5], [-0.5, 0]])
    scores, targets = np.log([[1.0, 3.0]]), np.array([[1.0, 0.0]])  # for the probabilities 1/2 and 3/4
    loss, dscores = ops.binary_cross_entropy(scores, targets)
    np.testing.assert_allclose(loss, (np.log(2) + np.log(4)) / 2)
    np.testing.assert_allclose(dscores, [[-0.25, 0.375]])
    loss, dscores = ops.binary_cross_entropy(scores, targets, np.array([5.0, 7.0]))
    np.testing.assert_allclose(loss, (5 * np.log(2) + np.log(4)) / 2)
    np.testing.assert_allclose(dscores, [[-1.25, 0.375]])


@every_loss
def test_gradients_agree_with_numerical_ones(loss, options):
    scores, targets = batch()
    _, dscores = loss(scores, targets, **options)
    numerical = numerical_gradient(lambda: loss(scores, targets, **options)[0], scores, np.ones(()))
    np.testing.assert_allclose(dscores, numerical, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@every_loss
def test_dtypes_are_right_and_the_gradient_can_be_scaled_and_may_overwrite_the_scores(loss, options, dtype):
    scores, targets = batch(dtype=dtype)
    options, before = of_dtype(options, dtype), scores.copy()
    value, dscores = loss(scores, targets, **options)
    np.testing.assert_array_equal(scores, before)
    assert (value.shape, value.dtype, dscores.dtype) == ((), accumulation_dtype(scores.dtype), scores.dtype)
    scaled_value, scaled = loss(scores, targets, **options, grad_scale=np.array([2.0**10]))
    assert scaled_value == value
    np.testing.assert_allclose(scaled.astype(float), 2.0**10 * dscores.astype(float), rtol=0.01, atol=0.01)
    assert loss(scores, targets, **options, out=scores)[1] is scores
    np.testing.assert_array_equal(scores, dscores)


@every_loss
def test_targets_of_another_float_dtype_give_the_same_bits(loss, options):
    scores, targets = batch(dtype="float32")
    options = of_dtype(options, "float32")
    targets = np.round(targets * 4) / 4
    value, dscores = loss(scores, targets, **options)
    for dtype in FLOAT_NAMES:
        again, gradient = loss(scores, targets.astype(as_dtype(dtype)), **options)
        assert again == value
        np.testing.assert_array_equal(gradient, dscores)


@every_loss
def test_large_scores_do_not_overflow_and_a_nan_reaches_only_the_loss_and_its_own_gradient(loss, options):
    scores, targets = batch()
    scores[0, 0] = [1e4, -1e4, 0]
    value, dscores = loss(scores, targets, **options)
    assert np.isfinite(value)
    assert np.isfinite(dscores).all()
    scores[1, 1, 1] = np.nan
    value, gradient = loss(scores, targets, **options)
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(gradient), np.isnan(scores))


def test_a_tiny_probability_keeps_its_digits():
    """The gradient is sigmoid(-60); computed as 1 - sigmoid(60), it would be 0."""
    _, dscores = ops.binary_cross_entropy(np.array([[-60.0]]), np.zeros((1, 1)))
    np.testing.assert_allclose(dscores, np.exp(-60.0), rtol=1e-13)
