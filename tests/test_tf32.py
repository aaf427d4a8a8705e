"""The rounding of float32 to TF32."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cpu.precision import round_tf32
from tests.devices import kernel_devices


def test_tf32_rounds_as_computed_by_hand():
    """TF32 has 10 fraction bits, so 1 + 2**-11 is halfway from 1 to the next number. Ties round away from zero."""
    below, above = np.nextafter(np.float32(1 + 2**-11), np.float32([0, 2]))
    ends = [0, -0.0, 2**-149, 2**-126, 3.4028235e38]
    numbers = np.float32([1, below, 1 + 2**-11, above, -1 - 2**-11, 1 + 3 * 2**-11, *ends])
    expected = np.float32([1, 1, 1 + 2**-10, 1 + 2**-10, -1 - 2**-10, 1 + 2**-9, 0, -0.0, 0, 2**-126, np.inf])
    np.testing.assert_array_equal(round_tf32(numbers), expected)
    np.testing.assert_array_equal(np.signbit(round_tf32(numbers)), np.signbit(expected))
    specials = np.array([0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    np.testing.assert_array_equal(round_tf32(specials), specials)
    np.testing.assert_array_equal(round_tf32(numbers.reshape(1, -1)[:, ::2]), expected.reshape(1, -1)[:, ::2])


@pytest.mark.parametrize("device", ["numpy", *kernel_devices()])
def test_both_factors_are_rounded_and_the_bias_is_not(device):
    """Each sum has one product, which float32 holds exactly, so the bits must be equal."""
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((7, 1)).astype(np.float32), rng.standard_normal((6, 1)).astype(np.float32)
    x[3], w[2] = np.nan, 0x7FFFFF * 2.0**-100
    product = to_numpy(ops.linear(asarray(x, device), asarray(w, device), tf32=True))
    np.testing.assert_array_equal(product, round_tf32(x) @ round_tf32(w).T)
    assert np.nanmax(np.abs(product - x @ w.T)) > 2**-16
    zero, bias = np.zeros((1, 1), np.float32), np.float32([1 + 2**-20])
    biased = ops.linear(*[asarray(a, device) for a in (zero, zero, bias)], tf32=True)
    assert to_numpy(biased).item() == 1 + 2**-20
