"""add_metrics, by hand: the running totals of loss, correct predictions, samples, finite batches and weights."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, as_dtype

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_metrics_add_up_over_two_batches(dtype):
    scores = np.array([[1, 3, 2], [np.nan, 9, 9], [2, 2, 1], [-1, -3, -2]]).astype(as_dtype(dtype))
    loss = np.asarray(0.25, np.float64 if dtype == "float64" else np.float32)
    totals = np.zeros(4)
    ops.add_metrics(totals, loss, scores, np.array([1, 0, 1, 0]))  # NaN is the largest; the first of equals wins
    np.testing.assert_array_equal(totals, [1, 3, 4, 1])
    ops.add_metrics(totals, np.asarray(np.inf, loss.dtype), scores[:1], np.array([2]))
    np.testing.assert_array_equal(totals, [np.inf, 3, 5, 1])


def test_a_label_that_is_no_class_weighs_nothing_in_the_metrics():
    totals, weight = np.zeros(5), np.array([1.0, 2.0, 4.0])
    ops.add_metrics(totals, np.array(1.5), np.eye(3), np.array([0, 7, -1]), weight)
    assert totals.tolist() == [1.5, 1.0, 3.0, 1.0, 1.0]  # loss, correct predictions, samples, finite batches, weights


def test_totals_that_overflow_or_become_nan_give_no_warning():
    totals = np.array([np.inf, 0, 0, 0])
    ops.add_metrics(totals, np.array(-np.inf), np.eye(3), np.array([0, 1, 2]))
    np.testing.assert_array_equal(totals, [np.nan, 3, 3, 0])
