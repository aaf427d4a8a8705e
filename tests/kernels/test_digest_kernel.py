"""The digest kernel: any size and alignment, several blocks, and any order of threads."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.dtypes import FLOAT_NAMES
from tests.kernels.agreement import assert_same_bits, on_device, random

SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 4095, 4099, 20_011]  # the last takes several blocks in every dtype


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_digests_agree_with_the_oracle(rng, device, dtype, size):
    x, before = random(rng, size, dtype), random(rng, size, dtype)
    for arrays in ((x,), (x, before)):
        computed, expected = on_device("digest", device, *arrays), ops.digest(*arrays)
        assert list(computed[:2]) == list(expected[:2])
        np.testing.assert_allclose(computed[2:], expected[2:], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_arrays_may_begin_at_any_address(rng, device, dtype):
    numbers = asarray(random(rng, 300, dtype), device)
    before = asarray(random(rng, 300, dtype), device)
    for first, last in ((0, 1), (1, 0), (3, 2), (5, 5)):
        x, old = numbers[first:257], before[last : 257 - first + last]
        expected = ops.digest(to_numpy(x), to_numpy(old))
        computed = to_numpy(ops.digest(x, old))
        assert list(computed[:2]) == list(expected[:2])
        np.testing.assert_allclose(computed[2:], expected[2:], rtol=1e-13)


def test_every_order_of_threads_gives_the_same_bits(rng, device):
    x, before = random(rng, 20_011, "float32"), random(rng, 20_011, "float32")
    assert_same_bits("digest", device, x, before)


def test_threads_of_a_full_grid_take_several_chunks(rng, device):
    """The grid has 1,024 blocks, which is the maximum. In the block that finishes last, each thread adds up the sums of
    several blocks."""
    x = np.tile(random(rng, 4099, "bfloat16"), 2100)
    computed, expected = on_device("digest", device, x, x[::-1].copy()), ops.digest(x, x[::-1].copy())
    assert list(computed[:2]) == list(expected[:2])
    np.testing.assert_allclose(computed[2:], expected[2:], rtol=1e-12)
