"""The scale of signed values that are drawn as colors."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.plots.colors import scale_of


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0, 0.0], 1.0),
        ([], 1.0),
        ([np.nan, np.inf], 1.0),
        ([-2.0, -2.0, np.inf], 2.0),
        ([0.0] * 999 + [-0.25], 0.25),  # the 0.995 quantile is 0, so the maximum is used
        ([1.0] * 999 + [50.0], 1.0),
    ],
    ids=["zeros", "empty", "not finite", "negative and infinite", "one value is not zero", "one outlier"],
)
def test_the_scale_is_the_largest_finite_magnitude_without_outliers(values, scale):
    assert scale_of(np.array(values)) == scale
