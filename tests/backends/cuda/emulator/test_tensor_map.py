"""The limits of tensor maps that need no array: those of sizes, strides and numbers."""

import pytest

from gpuconv.backends.cuda.emulator.tensor_map import expect_mappable


@pytest.mark.parametrize(
    ("shape", "strides", "itemsize", "message"),
    [
        ((2**31, 16), (16, 1), 1, r"dimensions below 2\*\*31 .* received shape \(2147483648, 16\)"),
        ((2, 16), (2**40, 1), 1, r"strides from 0 to below 2\*\*40 bytes, .* strides \(1099511627776, 1\)"),
        ((2, 16), (-16, 1), 1, r"strides from 0 .* received .* strides \(-16, 1\)"),
        ((2, 16), (256, 16), 16, "numbers of 1, 2, 4 or 8 bytes, received 16"),
    ],
    ids=["dimension", "stride", "negative-stride", "item"],
)
def test_sizes_and_strides_beyond_a_limit_are_refused(shape, strides, itemsize, message):
    with pytest.raises(ValueError, match=message):
        expect_mappable(0, shape, strides, itemsize, (1, 16), 0)
    expect_mappable(0, (2**31 - 1, 16), (16, 1), 1, (1, 16), 0)
    expect_mappable(0, (2, 16), (2**40 - 16, 1), 1, (1, 16), 0)
