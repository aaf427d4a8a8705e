"""add, scale and copy, by hand."""

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
