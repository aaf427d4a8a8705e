"""The table of algorithms, what is refused of a name, and TF32's rounding."""

import numpy as np
import pytest

from gpuconv import algorithms, asarray, ops, shapes, to_numpy
from gpuconv.algorithms import ALGORITHMS, ARITHMETICS
from gpuconv.backends.reference.rounding import round_tf32

X, W = np.ones((2, 4, 4, 8), np.float32), np.ones((6, 3, 3, 8), np.float32)
DY, ROWS, WEIGHT = np.ones((2, 2, 2, 6), np.float32), np.ones((5, 8), np.float32), np.ones((6, 8), np.float32)
OPS = {
    "conv2d": ([X, W], {}),
    "conv2d_dgrad": ([DY, W], dict(input_shape=X.shape)),
    "conv2d_wgrad": ([DY, X], dict(kernel_size=3)),
    "linear": ([ROWS, WEIGHT], {}),
    "linear_dgrad": ([np.ones((5, 6), np.float32), WEIGHT], {}),
    "linear_wgrad": ([np.ones((5, 6), np.float32), ROWS], {}),
}
every_op = pytest.mark.parametrize("op", OPS)


def test_every_arithmetic_is_served_once_a_name():
    for arithmetic in ARITHMETICS:
        names = [algorithm.name for algorithm in algorithms.serving(arithmetic)]
        assert names
        assert len(set(names)) == len(names)
    assert {a for algorithm in ALGORITHMS for a in algorithm.arithmetics} == set(ARITHMETICS)


@every_op
def test_names_are_checked_before_anything_is_computed(op):
    arrays, options = OPS[op]
    with pytest.raises(ValueError, match=r"unknown algorithm 'simt-128x65'; did you mean 'simt-128x64'\?"):
        getattr(ops, op)(*arrays, **options, algo="simt-128x65")
    with pytest.raises(ValueError, match=r"'simt-128x64' does not serve float64; those that do: auto, simt-64x32$"):
        getattr(ops, op)(*[a.astype(np.float64) for a in arrays], **options, algo="simt-128x64")
    with pytest.raises(TypeError, match="algorithm is chosen by name, received int"):
        getattr(ops, op)(*arrays, **options, algo=3)
    with pytest.raises(TypeError, match="tf32=True multiplies float32 arrays, received float64"):
        getattr(ops, op)(*[a.astype(np.float64) for a in arrays], **options, tf32=True)
    with pytest.raises(TypeError, match="tf32 must be True or False, received 'yes'"):
        getattr(ops, op)(*arrays, **options, tf32="yes")
    checked = getattr(shapes, op)(*arrays, **options, algo="SIMT_64x64", tf32=np.True_)
    assert (checked["algo"], checked["tf32"]) == ("simt-64x64", True)


def test_tf32_by_hand():
    """10 bits behind the point: 2**-11 is halfway from 1 to the next, and goes away from zero."""
    below, above = np.nextafter(np.float32(1 + 2**-11), np.float32([0, 2]))
    ends = [0, -0.0, 2**-149, 2**-126, 3.4028235e38]
    given = np.float32([1, below, 1 + 2**-11, above, -1 - 2**-11, 1 + 3 * 2**-11, *ends])
    wanted = np.float32([1, 1, 1 + 2**-10, 1 + 2**-10, -1 - 2**-10, 1 + 2**-9, 0, -0.0, 0, 2**-126, np.inf])
    np.testing.assert_array_equal(round_tf32(given), wanted)
    np.testing.assert_array_equal(np.signbit(round_tf32(given)), np.signbit(wanted))
    specials = np.array([0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    np.testing.assert_array_equal(round_tf32(specials), specials)
    np.testing.assert_array_equal(round_tf32(given.reshape(1, -1)[:, ::2]), wanted.reshape(1, -1)[:, ::2])


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_both_factors_are_rounded_and_the_bias_is_not(device):
    """One product a sum, so that float32 holds it exactly: the very bits."""
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((7, 1)).astype(np.float32), rng.standard_normal((6, 1)).astype(np.float32)
    x[3], w[2] = np.nan, 0x7FFFFF * 2.0**-100
    product = to_numpy(ops.linear(asarray(x, device), asarray(w, device), tf32=True))
    np.testing.assert_array_equal(product, round_tf32(x) @ round_tf32(w).T)
    assert np.nanmax(np.abs(product - x @ w.T)) > 2**-16
    zero, bias = np.zeros((1, 1), np.float32), np.float32([1 + 2**-20])
    biased = ops.linear(*[asarray(a, device) for a in (zero, zero, bias)], tf32=True)
    assert to_numpy(biased).item() == 1 + 2**-20
