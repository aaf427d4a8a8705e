"""Clipping of gradients by norm and by value, and the loss scale, by hand."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, as_dtype

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def clipped(grads, scaling=None, max_norm=1.0):
    result = np.full(4, 7.0)
    ops.clip_norm(result, grads, scaling, max_norm=max_norm)
    return result.tolist()


def test_clipping_by_norm_gives_the_factors_computed_by_hand():
    """The gradients have the norm 13."""
    grads = [np.array([[3.0, -4.0]]), np.array(12.0), np.zeros((0, 2))]
    assert clipped(grads, max_norm=6.5) == [1, pytest.approx(6.5 / (13 + 1e-6), rel=1e-15), 0, 0]
    assert clipped(grads, max_norm=26.0) == [1, 1, 0, 0]
    scaling = np.array([2.0, 0.25, 5, 3])  # the norm is 13 / 4
    assert clipped(grads, scaling, max_norm=6.5) == [2, 0.25, 5, 3]
    assert clipped(grads, scaling, max_norm=1.0) == [2, pytest.approx(0.25 / (3.25 + 1e-6), rel=1e-15), 5, 3]
    assert scaling.tolist() == [2, 0.25, 5, 3]
    assert clipped([], max_norm=1.0) == [1, 1, 0, 0]
    assert clipped([np.full(2, 3e38, np.float32)], max_norm=1.0)[1] == pytest.approx(1 / (np.sqrt(2) * 3e38))
    assert clipped([np.full(4, 2.0, np.float16), np.full(4, 2.0, as_dtype("bfloat16"))]) == [
        1,
        pytest.approx(1 / (np.sqrt(32) + 1e-6), rel=1e-15),
        0,
        0,
    ]


def test_a_nonfinite_norm_makes_the_step_nan_and_a_skipped_step_stays_skipped():
    for number in (np.inf, np.nan):
        grads = [np.array([1.0, number])]
        np.testing.assert_array_equal(clipped(grads), [1, np.nan, 0, 0])
        assert clipped(grads, np.array([2.0, 0, 5, 3])) == [2, 0, 5, 3]
        param, scaling = np.ones(3), np.array(clipped(grads))
        ops.sgd_step([param], [np.ones(3)], scaling=scaling, lr=0.1)
        assert np.isnan(param).all()


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_clipped_values_equal_those_computed_by_hand(dtype):
    def clip(scaling=None):
        grads = [np.array([[-3.0, -0.5], [0.25, np.inf]], as_dtype(dtype)).T, np.array(np.nan, as_dtype(dtype))]
        ops.clip_values(grads, scaling, clip_value=0.5)
        return np.array([*grads[0].T.ravel(), grads[1]], np.float64)

    np.testing.assert_array_equal(clip(), [-0.5, -0.5, 0.25, 0.5, np.nan])
    np.testing.assert_array_equal(clip(np.array([8.0, 0.25, 0, 0])), [-2, -0.5, 0.25, 2, np.nan])
    np.testing.assert_array_equal(clip(np.array([8.0, 0.0, 0, 0])), [-3, -0.5, 0.25, np.inf, np.nan])


def test_a_limit_beyond_float16_clips_nothing():
    grads = [np.array([65504.0, -65504.0], np.float16)]
    ops.clip_values(grads, np.array([2.0**16, 2.0**-16, 0, 0]), clip_value=100.0)
    assert grads[0].tolist() == [65504, -65504]


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_the_loss_scale_grows_after_finite_steps_and_falls_after_an_overflow(dtype):
    scaling, ones, infinite = np.array([8.0, 0, 0, 0]), np.ones(3, as_dtype(dtype)), np.full(2, np.inf, as_dtype(dtype))
    good, bad = [ones], [ones, infinite]
    seen = []
    for grads in (good, good, good, bad, good, bad, bad):
        ops.update_loss_scale(scaling, grads, growth=4, backoff=0.25, interval=3)
        seen.append(scaling.tolist())
    assert seen == [
        [8, 1 / 8, 1, 0],
        [8, 1 / 8, 2, 0],
        [32, 1 / 8, 0, 0],
        [8, 0, 0, 1],
        [8, 1 / 8, 1, 1],
        [2, 0, 0, 2],
        [0.5, 0, 0, 3],
    ]


def test_a_loss_scale_that_has_become_zero_or_infinite_gives_no_warning():
    for scale, unscale, grown in ((0.0, np.inf, 0.0), (1e308, 1e-308, np.inf), (np.inf, 0.0, np.inf)):
        scaling = np.array([scale, 1, 0, 0])
        ops.update_loss_scale(scaling, [np.ones(2)], growth=4, interval=1)
        np.testing.assert_array_equal(scaling, [grown, unscale, 0, 0])
