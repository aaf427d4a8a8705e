"""Random numbers: fill an array in place with the same bits as `gpuconv.random`."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.arguments import bounds, integer, number, seed_value, stream_word
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_any_float, expect_writable
from gpuconv.ops.registry import op
from gpuconv.types import ArrayT

__all__ = ["random_normal", "random_permutation", "random_uniform"]


@op("random_fill.cu", changes="y")
def random_uniform(
    y: ArrayT, *, low: float = 0.0, high: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> ArrayT:
    """Fill y as gpuconv.random.uniform does with these arguments.

    Args:
        y: Any shape, any float dtype; changed in place.
        low: The lowest number.
        high: The upper bound, at least low.
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        stream: What the numbers are for, the third word of the counter: a 32-bit integer.
        substream: Distinguishes the uses of one stream, the fourth word: a 32-bit integer.
        offset: Where in the stream to begin, in blocks of four numbers.

    Returns:
        y.

    Raises:
        TypeError: y has no float dtype, or a number has another type.
        ValueError: low exceeds high, high - low is infinite, another number is out of its range, or y is read-only.
    """
    backend = backend_of(y=y)
    expect_any_float("y", y)
    low, high = bounds(low, high)
    seed, stream = seed_value("seed", seed), stream_word("stream", stream)
    substream, offset = stream_word("substream", substream), integer("offset", offset, 0)
    expect_writable(y=y)
    return backend.random.random_uniform(
        y, low=low, high=high, seed=seed, stream=stream, substream=substream, offset=offset
    )


@op("random_fill.cu", changes="y")
def random_normal(
    y: ArrayT, *, mean: float = 0.0, std: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> ArrayT:
    """Fill y as gpuconv.random.normal does with these arguments.

    Args:
        y: Any shape, any float dtype; changed in place.
        mean: The mean.
        std: The standard deviation, at least 0.
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        stream: What the numbers are for, the third word of the counter: a 32-bit integer.
        substream: Distinguishes the uses of one stream, the fourth word: a 32-bit integer.
        offset: Where in the stream to begin, in blocks of four numbers.

    Returns:
        y.

    Raises:
        TypeError: y has no float dtype, or a number has another type.
        ValueError: std is negative, another number is out of its range, or y is read-only.
    """
    backend = backend_of(y=y)
    expect_any_float("y", y)
    mean, std = number("mean", mean, -math.inf), number("std", std, 0.0)
    seed, stream = seed_value("seed", seed), stream_word("stream", stream)
    substream, offset = stream_word("substream", substream), integer("offset", offset, 0)
    expect_writable(y=y)
    return backend.random.random_normal(
        y, mean=mean, std=std, seed=seed, stream=stream, substream=substream, offset=offset
    )


@op("random_fill.cu", changes="order")
def random_permutation(order: ArrayT, *, seed: int, epoch: int = 0, stream: int = 1) -> ArrayT:
    """Fill order as gpuconv.random.permutation(n) does with these arguments.

    Args:
        order: (n,) int64, changed in place.
        seed: The seed of the random numbers: a 64-bit integer, at least 0.
        epoch: Distinguishes the orders of one seed: a 32-bit integer.
        stream: What the numbers are for; by default the order of a data set.

    Returns:
        order.

    Raises:
        TypeError: order has another dtype or rank, or a number is not an integer.
        ValueError: A number is out of its range, or order is read-only.
    """
    backend = backend_of(order=order)
    if order.dtype != np.int64 or len(order.shape) != 1:
        raise TypeError(f"order must be int64 of rank 1, received {order.dtype.name} of shape {tuple(order.shape)}")
    seed, epoch, stream = seed_value("seed", seed), stream_word("epoch", epoch), stream_word("stream", stream)
    expect_writable(order=order)
    return backend.random.random_permutation(order, seed=seed, epoch=epoch, stream=stream)
