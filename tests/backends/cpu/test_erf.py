"""erfc in the dtype of its argument agrees with the C library and with SciPy, and is exact at extreme arguments."""

import math

import numpy as np
import pytest

from gpuconv.backends.cpu.erf import erfc


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_erfc_is_accurate_to_eight_ulps(dtype):
    reach = 26 if dtype == "float64" else 9
    # The approximation changes at 0.46875 and at 4
    x = np.array([*np.linspace(-reach, reach, 20011), 0.46875, np.nextafter(0.46875, 1), 4, -4], dtype)
    exact = np.array([math.erfc(point) for point in x.astype(np.float64)])
    relative = abs(erfc(x).astype(np.float64) - exact) / exact
    assert erfc(x).dtype == dtype
    assert relative.max() < 8 * np.finfo(dtype).eps


def test_erfc_is_exact_at_extreme_arguments():
    np.testing.assert_array_equal(erfc(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e300])), [0, 2, np.nan, 1, 1, 0])


def test_erfc_agrees_with_scipy():
    special = pytest.importorskip("scipy.special")
    x = np.random.default_rng(0).normal(size=1001) * 3
    np.testing.assert_allclose(erfc(x), special.erfc(x), rtol=1e-13)
