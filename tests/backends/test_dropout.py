"""Dropout: its mask is the documented slice of the Philox stream, and its scale keeps the mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype
from gpuconv.random import DROPOUT, bits, uniform
from tests.gradients import numerical_gradient
from tests.random_arrays import signed

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])  # in 16 bits most scales 1 / (1 - p) are rounded
def test_the_mask_follows_the_random_stream(p, dtype):
    x = signed((3, 5, 7, 2), dtype=dtype)
    options = dict(seed=2**63 + 5, substream=4, offset=11)
    y = ops.dropout(x, p=p, **options)
    kept = uniform(x.shape, stream=DROPOUT, **options, dtype="float64") >= p
    wide = accumulation_dtype(x.dtype)
    expected = (x.astype(wide) * wide.type(1 / (1 - p))).astype(x.dtype)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, np.where(kept, expected, x.dtype.type(0)))
    np.testing.assert_array_equal(ops.dropout_backward(x, p=p, **options), y)


def test_p_0_changes_nothing():
    x = signed((5, 7))
    np.testing.assert_array_equal(ops.dropout(x, p=0, seed=1), x)


def test_dropout_keeps_the_mean():
    x = np.ones((100, 1000), np.float32)
    y = ops.dropout(x, p=0.2, seed=3)
    assert set(np.unique(y)) == {0, np.float32(1.25)}
    deviation = np.sqrt(0.2 * 0.8 / x.size)
    assert abs((y == 0).mean() - 0.2) < 5 * deviation


def test_the_comparison_with_p_is_exact():
    """p is just below, at or just above a step of the 24-bit uniform number, or closer to 1 than the last step."""
    x = np.ones(1 << 12)
    words = bits(x.size, seed=0, stream=DROPOUT)
    at = np.flatnonzero(words & 0xFF == 0)[0]  # a word that loses nothing when its low 8 bits are dropped
    u = float(words[at] * 2.0**-32)
    for p, kept in ((np.nextafter(u, 0), True), (u, True), (np.nextafter(u, 1), False)):
        assert (ops.dropout(x, p=float(p), seed=0)[at] != 0) == kept
    assert (ops.dropout(x, p=1 - 2.0**-53, seed=0) == 0).all()


def test_seed_substream_and_offset_each_change_the_mask():
    x = np.ones(1000)
    masks = {
        ops.dropout(x, p=0.5, **options).tobytes()
        for options in (dict(seed=0), dict(seed=1), dict(seed=0, substream=1), dict(seed=0, offset=1))
    }
    assert len(masks) == 4


def test_an_offset_counts_blocks_of_four_and_may_be_an_array():
    x = np.ones(40)
    later = ops.dropout(x[:28], p=0.5, seed=9, offset=3)
    np.testing.assert_array_equal(later, ops.dropout(x, p=0.5, seed=9)[12:])
    np.testing.assert_array_equal(later, ops.dropout(x[:28], p=0.5, seed=9, offset=np.array([3])))


def test_the_gradient_agrees_with_a_numerical_one():
    x, dy = signed((2, 5, 3)), signed((2, 5, 3), seed=1)
    options = dict(p=0.4, seed=1, offset=2)
    dx = ops.dropout_backward(dy, **options)
    np.testing.assert_allclose(dx, numerical_gradient(lambda: ops.dropout(x, **options), x, dy), rtol=1e-6, atol=1e-9)


def test_dropped_elements_are_0_even_if_they_were_nan_or_infinite():
    x = np.full(1000, np.nan)
    x[::2] = np.inf
    y = ops.dropout(x, p=0.5, seed=1)
    kept = ops.dropout(np.ones(1000), p=0.5, seed=1) != 0
    assert (y[~kept] == 0).all()
    assert not np.isfinite(y[kept]).any()


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_out_may_be_strided_or_the_input(dtype):
    x = signed((7, 6), dtype=dtype)
    expected = ops.dropout(x, p=0.5, seed=2)
    out = np.full((6, 14), np.nan, x.dtype).T[::2]
    assert ops.dropout(x, p=0.5, seed=2, out=out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.asfortranarray(x)
    # Elements are counted in row-major order, whatever the layout.
    np.testing.assert_array_equal(ops.dropout(strided, p=0.5, seed=2), expected)
    assert ops.dropout_backward(x, p=0.5, seed=2, out=x) is x
    np.testing.assert_array_equal(x, expected)


@given(st.lists(st.integers(0, 4), max_size=4), st.floats(0, 0.99))
def test_dropout_takes_arrays_of_any_shape(shape, p):
    x = signed(shape)
    y = ops.dropout(x, p=p, seed=0)
    assert y.shape == x.shape
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / (1 - p), rtol=1e-14)
