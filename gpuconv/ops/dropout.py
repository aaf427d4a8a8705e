"""Dropout. `out` may be the input itself."""

from __future__ import annotations

from gpuconv.arguments import integer, number, seed_value, step_integer, stream_word
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_elementwise
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import ArrayT, Scalar

__all__ = ["dropout", "dropout_backward"]


@op("dropout.cu")
def dropout(
    x: ArrayT, *, p: float, seed: int, substream: int = 0, offset: Scalar = 0, first: int = 0, out: ArrayT | None = None
) -> ArrayT:
    """Inverted dropout (Srivastava et al. 2014): each element is zeroed with probability p, the others are divided by
    1 - p.

    Element i of x (row-major) is kept if number first + i of `gpuconv.random.uniform`, in the DROPOUT stream with this
    seed, substream and offset, is at least p. So the mask is the same on every device and is never stored. The scale is
    1 / (1 - p), rounded once to the accumulation dtype.

    Args:
        x: Any shape, any float dtype.
        p: The probability, in [0, 1).
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        substream: Distinguishes the layers of one net: a 32-bit integer.
        offset: The first position in the stream, in blocks of four numbers; may be an int64 array of one element.
        first: The index of x's first element, at least 0; above 0 if x is a later part of a batch.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out), numbers=dict(offset=offset))
    expect_elementwise(x, out)
    p, seed = number("p", p, 0.0, 1.0, open_high=True), seed_value("seed", seed)
    substream, offset = stream_word("substream", substream), step_integer("offset", offset)
    first = integer("first", first, 0)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.dropout.dropout(x, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out)


@op("dropout.cu")
def dropout_backward(
    dy: ArrayT,
    *,
    p: float,
    seed: int,
    substream: int = 0,
    offset: Scalar = 0,
    first: int = 0,
    out: ArrayT | None = None,
) -> ArrayT:
    """dx = dy with the mask and scale of the dropout call that had the same p, seed, substream, offset and first.

    Args:
        dy: Any shape, any float dtype.
        p: As in that call.
        seed: As in that call.
        substream: As in that call.
        offset: As in that call.
        first: As in that call.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, optional=dict(out=out), numbers=dict(offset=offset))
    expect_elementwise(dy, out, "dy")
    p, seed = number("p", p, 0.0, 1.0, open_high=True), seed_value("seed", seed)
    substream, offset = stream_word("substream", substream), step_integer("offset", offset)
    first = integer("first", first, 0)
    (dy,) = copy_if_overlapping([out], dy, in_place=True)
    return backend.dropout.dropout_backward(
        dy, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out
    )
