"""Rows with a pitch, for kernels whose order of sums depends on the pack width."""

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops.conv import rows_to_sum
from gpuconv.backends.cuda.runtime.rows import rows_of


@pytest.mark.parametrize(
    ("channels", "count", "copied"),
    [
        pytest.param(slice(4, 12), 0, False, id="wide packs in the slice"),
        pytest.param(slice(1, 9), 0, True, id="wide packs only in a copy"),
        pytest.param(slice(1, 6), 0, False, id="no wide packs in a copy either"),
        pytest.param(slice(1, 9), 2, False, id="a count that allows no wide packs"),
    ],
)
def test_a_slice_is_copied_if_only_the_copy_allows_wide_packs(channels, count, copied):
    volume = emulator.asarray(np.arange(48, dtype=np.float32).reshape(3, 16))
    inside = volume[:, channels]
    flat, pitch = rows_to_sum(inside, count)
    length = inside.shape[-1]
    assert pitch == (length if copied else 16)
    assert np.may_share_memory(np.asarray(flat), np.asarray(volume)) != copied
    read = np.lib.stride_tricks.as_strided(np.asarray(flat), (3, length), (4 * pitch, 4))
    np.testing.assert_array_equal(read, np.asarray(inside))


def test_rows_that_are_not_whole_elements_apart_are_copied():
    """The rows of one field of packed records are an example."""
    records = emulator.zeros((4 * 13,), np.uint8).view(np.dtype([("rows", np.float32, 3), ("flag", np.uint8)]))
    rows = records["rows"]
    numbers = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows[...] = emulator.asarray(numbers)
    assert rows.strides == (13, 4)
    flat, pitch = rows_of(rows)
    assert pitch == 3
    assert flat.flags.c_contiguous
    np.testing.assert_array_equal(np.asarray(flat), numbers)
