"""The kernels of random numbers and permutations have the bits of `gpuconv.random`."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from tests.kernels.agreement import ORACLE


def filled(name, device, shape, dtype, **options):
    y = asarray(np.zeros(shape, dtype if dtype == "int64" else as_dtype(dtype)), device)
    assert getattr(ops, name)(y, **options) is y
    return to_numpy(y)


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (64, 3, 3, 33), (0,)])
@pytest.mark.parametrize(
    ("name", "numbers"), [("random_uniform", dict(low=-0.3, high=1.7)), ("random_normal", dict(mean=0.1, std=0.05))]
)
def test_random_numbers_have_the_oracles_bits(device, name, numbers, shape, dtype):
    options = numbers | dict(seed=0xDEADBEEF12345678, stream=4, substream=9, offset=2**32 - 2)
    assert (
        filled(name, device, shape, dtype, **options).tobytes()
        == filled(name, ORACLE, shape, dtype, **options).tobytes()
    )


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 6, 17, 1000, 1437])
def test_permutations_have_the_oracles_bits(device, n):
    options = dict(seed=11, epoch=3)
    order = filled("random_permutation", device, n, "int64", **options)
    np.testing.assert_array_equal(order, filled("random_permutation", ORACLE, n, "int64", **options))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
