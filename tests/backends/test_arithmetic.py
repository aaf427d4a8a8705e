"""Addition and scaling, running metrics, and the values that change at each step: by hand."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, as_dtype

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_add_and_scale_give_the_values_computed_by_hand(dtype):
    a, b = (np.array(values).astype(as_dtype(dtype)) for values in ([1.0, -2.0, np.inf], [0.5, 2.0, -np.inf]))
    for result, expected in ((ops.add(a, b), [1.5, 0, np.nan]), (ops.scale(a, factor=-3), [-3, 6, -np.inf])):
        assert result.dtype == a.dtype
        np.testing.assert_array_equal(result.astype(float), expected)
    assert ops.add(a, b, out=b) is b
    np.testing.assert_array_equal(b.astype(float), [1.5, 0, np.nan])


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_add_takes_a_vector_for_each_channel(dtype):
    a, b = np.arange(6.0).reshape(3, 1, 2).astype(as_dtype(dtype)), np.array([10.0, 20.0]).astype(as_dtype(dtype))
    np.testing.assert_array_equal(ops.add(a, b).astype(float)[:, 0], [[10, 21], [12, 23], [14, 25]])
    assert ops.add(a, a[1, 0], out=a) is a  # b is read before it is written
    np.testing.assert_array_equal(a.astype(float)[:, 0], [[2, 4], [4, 6], [6, 8]])


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_copy_concatenates_and_takes_slices(dtype):
    a, b = (np.arange(n).reshape(2, 1, n // 2).astype(as_dtype(dtype)) for n in (4, 6))
    y = np.full((2, 1, 5), np.nan).astype(a.dtype)
    part = y[..., 2:]
    assert ops.copy(b, out=part) is part
    ops.copy(a, out=y[..., :2])
    np.testing.assert_array_equal(y.astype(float)[:, 0], [[0, 1, 0, 1, 2], [2, 3, 3, 4, 5]])
    copied = ops.copy(y[..., 2:])
    assert copied.flags.c_contiguous
    assert copied.tobytes() == b.tobytes()
    np.testing.assert_array_equal(ops.copy(y[..., 1:], out=y[..., :4]).astype(float)[0, 0], [1, 0, 1, 2])


def test_a_factor_is_rounded_to_the_accumulation_dtype():
    factor = 1 + 2.0**-25 + 2.0**-26 + 2.0**-27  # rounds to 1 in float32; 3 times the unrounded factor would round up
    assert ops.scale(np.array([3], np.float32), factor=factor).item() == 3
    assert ops.scale(np.array([3.0]), factor=factor).item() == 3 * factor


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_metrics_add_up_over_two_batches(dtype):
    scores = np.array([[1, 3, 2], [np.nan, 9, 9], [2, 2, 1], [-1, -3, -2]]).astype(as_dtype(dtype))
    loss = np.asarray(0.25, np.float64 if dtype == "float64" else np.float32)
    totals = np.zeros(4)
    ops.add_metrics(totals, loss, scores, np.array([1, 0, 1, 0]))  # NaN is the largest; the first of equals wins
    np.testing.assert_array_equal(totals, [1, 3, 4, 1])
    ops.add_metrics(totals, np.asarray(np.inf, loss.dtype), scores[:1], np.array([2]))
    np.testing.assert_array_equal(totals, [np.inf, 3, 5, 1])


def test_the_step_counters_and_a_single_counter_advance_as_computed_by_hand():
    counters, lr = np.array([1, 7, 100, 200]), np.empty(2)
    rates = np.array([[1.0, 2.0], [3.0, 4.0]])
    ops.advance_step_counter(counters, lr, rates, batch_size=16)
    np.testing.assert_array_equal(lr, [3, 4])
    np.testing.assert_array_equal(counters, [2, 8, 116, 216])
    ops.advance_step_counter(counters, lr, rates, batch_size=16)
    np.testing.assert_array_equal(lr, [np.nan, np.nan])  # past the end
    ops.advance_clock(clock=counters, lr=lr, rates=rates, batch_size=1)  # the former name
    np.testing.assert_array_equal(counters, [4, 10, 133, 233])
    counter = np.array([5])
    np.testing.assert_array_equal(ops.advance_counter(counter, by=3), [5])
    np.testing.assert_array_equal(counter, [8])


def test_the_loss_scale_takes_the_values_computed_by_hand():
    good, bad = [np.array([1.0, 2.0], np.float16)], [np.array([1.0, np.inf], np.float16)]
    scaling = np.array([8.0, 0, 0, 0])
    for grads, expected in (
        (good, [8, 1 / 8, 1, 0]),
        (good, [16, 1 / 8, 0, 0]),
        (bad, [4, 0, 0, 1]),
        (good, [4, 1 / 4, 1, 1]),
    ):
        ops.update_loss_scale(scaling, grads, growth=2.0, backoff=0.25, interval=2)
        np.testing.assert_array_equal(scaling, expected)
