"""Sums, copies and multiples of arrays of any shape. `out` may be an input itself."""

from __future__ import annotations

import math

from gpuconv.arguments import number, step_scalar
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_elementwise, expect_same_dtype, expect_shape
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import ArrayT, Scalar

__all__ = ["add", "copy", "scale"]


@op("arithmetic.cu")
def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """a + b. Joins the two branches of a residual block, or adds a bias.

    Args:
        a: Any shape, any float dtype.
        b: Of a's dtype, and of a's shape or (C,): one value for each channel, along a's last axis.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        The sum, of a's shape and dtype.
    """
    backend = backend_of(a=a, b=b, optional=dict(out=out))
    expect_same_dtype(a=a, b=b)
    if a.ndim < 2 or b.shape != a.shape[-1:]:
        expect_shape("b", b, a.shape, "a's shape, or that of its last axis")
    expect_elementwise(a, out, "a")
    a, b = copy_if_overlapping([out], a, b, in_place=True)
    return backend.arithmetic.add(a, b, out=out)


@op("arithmetic.cu")
def copy(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """A copy of x. Concatenates volumes by writing slices of the channels, ``copy(x, out=y[..., :3])``, and extracts
    such slices, ``copy(y[..., :3])``.

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        The copy, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.arithmetic.copy(x, out=out)


@op("arithmetic.cu")
def scale(x: ArrayT, *, factor: Scalar, divisor: Scalar = 1.0, out: ArrayT | None = None) -> ArrayT:
    """x * (factor / divisor), with the quotient rounded to the accumulation dtype; x * 0 where the divisor is 0.

    Args:
        x: Any shape, any float dtype.
        factor: Any finite number; may be a float64 array of one element.
        divisor: At least 0; may be a float64 array of one element.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        The product, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out), numbers=dict(factor=factor, divisor=divisor))
    expect_elementwise(x, out)
    factor = step_scalar("factor", factor, [x], least=-math.inf)
    divisor = step_scalar("divisor", divisor, [x])
    if isinstance(factor, float) and isinstance(divisor, float) and divisor:
        number("factor / divisor", factor / divisor, -math.inf, used_with=[x])
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.arithmetic.scale(x, factor=factor, divisor=divisor, out=out)
