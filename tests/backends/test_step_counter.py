"""The counters and learning rates that change at each step, by hand."""

import numpy as np
import pytest

from gpuconv import ops

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def test_the_step_counters_and_a_single_counter_advance_as_computed_by_hand():
    counters, lr = np.array([1, 7, 100, 200]), np.empty(2)
    rates = np.array([[1.0, 2.0], [3.0, 4.0]])
    ops.advance_step_counter(counters, lr, rates, batch_size=16)
    np.testing.assert_array_equal(lr, [3, 4])
    np.testing.assert_array_equal(counters, [2, 8, 116, 216])
    ops.advance_step_counter(counters, lr, rates, batch_size=16)
    np.testing.assert_array_equal(lr, [np.nan, np.nan])  # past the end of the rates
    ops.advance_clock(clock=counters, lr=lr, rates=rates, batch_size=1)  # the former name
    np.testing.assert_array_equal(counters, [4, 10, 133, 233])
    counter = np.array([5])
    np.testing.assert_array_equal(ops.advance_counter(counter, by=3), [5])
    np.testing.assert_array_equal(counter, [8])
