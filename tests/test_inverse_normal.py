"""The quantiles of the normal distribution, and the logarithm that they need."""

import numpy as np
import pytest

from gpuconv.inverse_normal import inverse_normal_cdf, log
from gpuconv.random import INIT, bits


def test_log_agrees_with_numpy():
    x = np.concatenate([2.0 ** np.arange(-40, 40, 0.37), 1 + 2.0 ** -np.arange(1.0, 52.0)])
    np.testing.assert_allclose(log(x), np.log(x), rtol=1e-15)


@pytest.mark.parametrize(
    ("p", "z"),
    [  # quantiles of the standard normal distribution, as tables give them
        (0.5, 0.0),
        (0.975, 1.959963984540054),
        (0.1, -1.2815515655446004),
        (0.999, 3.090232306167813),
        (1e-6, -4.753424308822899),
    ],
)
def test_inverse_normal_cdf_gives_the_known_quantiles(p, z):
    assert inverse_normal_cdf(np.array([p]))[0] == pytest.approx(z, rel=1e-14)


def test_inverse_normal_cdf_agrees_with_scipy():
    special = pytest.importorskip("scipy.special")
    word = np.concatenate([bits(100_000, seed=1, stream=INIT), [0, 1, 2**32 - 2, 2**32 - 1]])
    p = (word + 0.5) * 2.0**-32
    np.testing.assert_allclose(inverse_normal_cdf(p), special.ndtri(p), rtol=4e-15)
