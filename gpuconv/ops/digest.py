"""The digest of a tensor: a hash of its bytes, and sums of its values."""

from __future__ import annotations

import numpy as np

from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_any_float, expect_out, expect_same_dtype, expect_shape
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import ArrayT

__all__ = ["digest"]


@op("digest.cu")
def digest(x: ArrayT, before: ArrayT | None = None, *, out: ArrayT | None = None) -> ArrayT:
    """A hash of x and its sums, all read in one pass on x's device. Equal bytes have the same hash on every device; the
    sums may differ in their last bits, because devices add in different orders.

    The hash is the sum, modulo 2**64, of mix(word[j] + (j + 1) * 0x9e3779b97f4a7c15) over the words of x: 8 bytes each
    in C order, as a little-endian unsigned number, with zeros after the last byte. mix is the output function of
    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). The hash is not
    cryptographic.

    Args:
        x: Any shape, any float dtype.
        before: Of x's shape and dtype: its values before a change, such as an optimizer step.
        out: Receives the result; (5,) float64; by default a new array.

    Returns:
        (5,) float64: the upper and the lower 32 bits of the hash, the sum of x, the sum of its squares, and the sum of
        the squares of x - before, 0 without before. The sums are accumulated in float64 and may be infinite or NaN.
    """
    backend = backend_of(x=x, optional=dict(before=before, out=out))
    expect_any_float("x", x)
    if before is not None:
        expect_same_dtype(x=x, before=before)
        expect_shape("before", before, x.shape, "x's shape")
    expect_out(out, (5,), np.dtype(np.float64))
    x, before = copy_if_overlapping([out], x, before)
    return backend.digest.digest(x, before, out=out)
