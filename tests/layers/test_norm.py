"""Batch norm's running statistics."""

import numpy as np

from gpuconv.layers import BatchNorm
from tests.layers.layer_cases import fresh


def test_batch_norm_updates_running_statistics_only_in_training():
    norm = fresh(BatchNorm(momentum=0.25), (2,))
    x = np.array([[1.0, -4.0], [3.0, 2.0], [8.0, 5.0]])
    norm.forward(x)
    assert norm["running_mean"].tolist() == [0, 0]
    norm.forward(x, True)
    np.testing.assert_allclose(norm["running_mean"], 0.25 * x.mean(0))
    np.testing.assert_allclose(norm["running_var"], 0.75 + 0.25 * x.var(0, ddof=1))
