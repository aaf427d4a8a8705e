"""Digests of tensors: hashes that SplitMix64's published outputs determine, and sums by hand."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.integers import ceil_div

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

# The first outputs of SplitMix64 with the seed 0: the mixed words of a tensor of zeros.
OUTPUTS = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def hash_of(x, *before):
    upper, lower, *_ = ops.digest(x, *before)
    return int(upper) * 2**32 + int(lower)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_the_hash_of_zeros_is_the_sum_of_splitmix64s_outputs(dtype):
    for size in range(8 * len(OUTPUTS) // as_dtype(dtype).itemsize + 1):
        x = np.zeros(size, as_dtype(dtype))
        words = ceil_div(x.nbytes, 8)
        assert hash_of(x) == sum(OUTPUTS[:words]) % 2**64, size


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_every_flipped_bit_another_order_and_another_length_change_the_hash(dtype):
    x = np.random.default_rng(0).normal(size=37).astype(as_dtype(dtype))
    found = {hash_of(x), hash_of(x[::-1].copy()), hash_of(x[:-1])}
    for byte in range(x.nbytes):
        for bit in range(8):
            flipped = x.copy()
            flipped.view(np.uint8)[byte] ^= 1 << bit
            found.add(hash_of(flipped))
    assert len(found) == 3 + 8 * x.nbytes
    assert hash_of(np.zeros(4, x.dtype)) != hash_of(-np.zeros(4, x.dtype))


def test_the_hash_depends_on_the_bytes_in_row_major_order_and_not_on_shape_or_layout():
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    assert (
        hash_of(x) == hash_of(x.reshape(-1)) == hash_of(x.view(np.float64)) == hash_of(np.pad(x, 1)[1:-1, 1:-1, 1:-1])
    )
    assert hash_of(x.transpose(2, 0, 1)) == hash_of(np.ascontiguousarray(x.transpose(2, 0, 1))) != hash_of(x)


def test_the_hash_depends_on_the_place_of_every_block_and_sums_cover_all_of_them():
    """The fast NumPy code reads blocks of 2**18 bytes, which are 2**16 of these numbers."""
    large = np.arange(3 * 2**16 + 1, dtype=np.float32)
    swapped = np.concatenate([large[2**16 : 2**17], large[: 2**16], large[2**17 :]])
    assert hash_of(large) != hash_of(swapped)
    last = len(large) - 1
    assert list(ops.digest(large, large + 1)[2:]) == [
        last * (last + 1) / 2,
        pytest.approx(last * (last + 1) * (2 * last + 1) / 6, rel=1e-12),
        last + 1,
    ]


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_the_three_sums_equal_those_computed_by_hand(dtype):
    x, before = (np.array(values).astype(as_dtype(dtype)) for values in ([3, -4, 0.5], [3, 0, -1]))
    assert list(ops.digest(x)[2:]) == [-0.5, 25.25, 0]
    assert list(ops.digest(x, before)[2:]) == [-0.5, 25.25, 18.25]
    assert hash_of(x, before) == hash_of(x)
    assert list(ops.digest(x[:0], before[:0])) == [0] * 5
    with np.errstate(all="ignore"):
        assert np.isnan(ops.digest(np.array([np.nan]).astype(x.dtype))[2:4]).all()
        assert list(ops.digest(np.array([-np.inf]).astype(x.dtype))[2:4]) == [-np.inf, np.inf]


def test_float32_numbers_whose_squares_overflow_are_summed_in_float64():
    square = float(np.float32(1e30)) ** 2
    assert ops.digest(np.full(2, 1e30, np.float32))[3] == 2 * square
    assert ops.digest(np.array([1e-40], np.float32))[3] == float(np.float32(1e-40)) ** 2


def test_out_receives_the_digest():
    x, table = np.arange(6, dtype=np.float32), np.full((3, 5), np.nan)
    row = table[1]
    assert ops.digest(x, out=row) is row
    np.testing.assert_array_equal(row, ops.digest(x))
    assert np.isnan(table[[0, 2]]).all()
    five = np.arange(5.0)
    expected = ops.digest(five.copy())
    np.testing.assert_array_equal(ops.digest(five, out=five), expected)
