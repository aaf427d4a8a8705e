"""The totals of loss, correct predictions, samples and batches: kernels/metrics.cu."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.dtypes import FLOAT_NAMES, as_dtype


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_metrics_of_soft_targets_equal_counts_by_hand(device, dtype):
    scores = np.array([[1, 3, 3], [np.nan, 5, 1], [0, 0, 0], [1, 2, 3]], np.float32)
    targets = np.array([[0, 0.5, 0.5], [0.6, 0.2, 0.2], [0.4, 0.4, 0.2], [np.nan, 0, 1]]).astype(as_dtype(dtype))
    totals = asarray(np.zeros(4), device)
    ops.add_metrics(totals, *(asarray(a, device) for a in (np.float32(2.5), scores, targets)))
    np.testing.assert_array_equal(to_numpy(totals), [4 * 2.5, 3, 4, 1])  # loss, correct predictions, samples, batches


@pytest.mark.parametrize("ignore_index", [None, 1])
def test_the_least_int64_is_a_wrong_label_like_any_other(device, ignore_index):
    scores, labels = np.eye(3, dtype=np.float32), np.array([0, 1, np.iinfo(np.int64).min])
    totals = asarray(np.zeros(4), device)
    arrays = (asarray(a, device) for a in (np.float32(2.0), scores, labels))
    ops.add_metrics(totals, *arrays, ignore_index=ignore_index)
    counted, right = (3, 2) if ignore_index is None else (2, 1)
    np.testing.assert_array_equal(to_numpy(totals), [counted * 2.0, right, counted, 1])
