"""The dropout kernel, against the oracle."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.dtypes import FLOAT_NAMES
from gpuconv.random import DROPOUT, bits
from tests.kernels.agreement import on_device, random


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 5, 3), (4, 8, 8, 16), (0, 4)])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.999])
def test_dropout_has_the_mask_and_bits_of_the_oracle(device, rng, dtype, shape, p):
    x = random(rng, shape, dtype)
    options = dict(p=p, seed=2**63 + 5, substream=7, offset=2**33 + 1)
    np.testing.assert_array_equal(on_device("dropout", device, x, **options), ops.dropout(x, **options))
    np.testing.assert_array_equal(
        on_device("dropout_backward", device, x, **options), ops.dropout_backward(x, **options)
    )


@pytest.mark.parametrize("size", [64, 63])  # in packs of four, and one by one
def test_an_element_whose_uniform_equals_p_is_kept(device, size):
    """An element is kept if uniform >= p. Equality occurs once in 2^24 elements, so p is set to a drawn number."""
    drawn = bits(size, seed=3, stream=DROPOUT) >> 8
    place = int(np.argsort(drawn)[size // 2])
    y = on_device("dropout", device, np.ones(size, np.float32), p=drawn[place] * 2.0**-24, seed=3)
    np.testing.assert_array_equal(y != 0, drawn >= drawn[place])
    assert y[place]


def test_the_offset_may_live_in_device_memory(device, rng):
    x = random(rng, (5, 9), "float32")
    offset = asarray(np.array([12], np.int64), device)
    y = on_device("dropout", device, x, p=0.5, seed=3, offset=offset)
    np.testing.assert_array_equal(y, ops.dropout(x, p=0.5, seed=3, offset=12))
    with pytest.raises(TypeError, match="offset must be a number or an array of int64, received an array of float32"):
        on_device("dropout", device, x, p=0.5, seed=3, offset=asarray(np.array([12], np.float32), device))


def test_dropout_works_in_place_on_an_unaligned_view(device, rng):
    flat = asarray(random(rng, 41, "float32"), device)
    x = flat[1:]
    expected = ops.dropout(to_numpy(x), p=0.25, seed=1)
    assert ops.dropout(x, p=0.25, seed=1, out=x) is x
    np.testing.assert_array_equal(to_numpy(x), expected)
