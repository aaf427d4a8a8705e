"""Quantiles of the beta distribution, from which mixup and cutmix draw."""

import numpy as np
import pytest

from gpuconv.data.beta import quantiles


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2, 0.5, 1, 1.7, 8, 100, 1000])
def test_quantiles_equal_those_of_scipy(alpha):
    stats = pytest.importorskip("scipy.stats")
    computed = quantiles(float(alpha))
    expected = stats.beta.ppf((np.arange(4096) + 0.5) / 4096, alpha, alpha)
    np.testing.assert_allclose(computed, expected, rtol=1e-7, atol=1e-38)
    assert computed.dtype == np.float32


def test_quantiles_of_alpha_1_and_of_a_tiny_alpha_equal_those_computed_by_hand():
    # With alpha = 1 the distribution is uniform; near alpha = 0 nearly all of it is at 0 and 1.
    assert quantiles(1.0, 4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert quantiles(1e-9, 4).tolist() == [0, 0, 1, 1]
