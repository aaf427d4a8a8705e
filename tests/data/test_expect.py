"""The labels that a user gives: class numbers, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.data.expect import class_numbers


def test_class_numbers_are_converted_or_refused():
    for labels in ([0, 2], (0, 2), np.array([0, 2], np.uint8)):
        numbers = class_numbers(labels, "set", 2)
        assert (numbers.tolist(), numbers.dtype) == ([0, 2], np.int64)
    assert class_numbers(np.zeros(0, int), "set", 0).shape == (0,)
    for labels, error, message in (
        ([0.0, 1.0], TypeError, r"must be integers \(class numbers\), received float64"),
        ([True, False], TypeError, "received bool"),
        ([0], ValueError, r"each of 2 images, received shape \(1,\)$"),
        ([[0], [1]], ValueError, r"shape \(2, 1\); x.ravel\(\) gives one axis; targets for each score are floats"),
        ([[0, 1], [1, 0]], ValueError, r"\(2, 2\); x.argmax\(1\) converts"),
        ([0, -1], ValueError, "labels of 'set' must be 0 or more, received -1"),
        (np.uint64([0, 2**63]), ValueError, r"labels of 'set' must be below 2\*\*63, received 9223372036854775808"),
        ([0, np.ma.masked], TypeError, "labels of 'set' must not be a masked array"),
    ):
        with pytest.raises(error, match=message):
            class_numbers(labels, "set", 2)
