"""Random numbers: Philox4x32-10, the same bits on every device.

Philox is counter-based: block `i` of a stream is a pure function of (seed, stream, i). There is no
state to save, a GPU thread can compute any element independently, and a run can resume at any
position. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

The layout, which `philox.cuh` shares::

    key     = (seed low, seed high)                                  64-bit seed
    counter = (block low, block high, stream, substream)             64-bit block number
    word i of a stream = word i % 4 of block offset + i // 4

Streams separate the uses of one seed. Substreams separate the uses of one stream, for example by the
number of a parameter or a layer, by the epoch, or by the kind of augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpuconv.arguments import bounds, integer, number
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.integers import ceil_div
from gpuconv.inverse_normal import inverse_normal_cdf
from gpuconv.inverse_normal import log as log  # random.log is public too


class Stream(IntEnum):
    """The purpose of a draw: the third word of the counter. Names and numbers are fixed."""

    INIT = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3
    DATA = 4  # splits and synthetic images


INIT, SHUFFLE, AUGMENT, DROPOUT, DATA = Stream

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt(3) - 1
_ROUNDS = 10
_CHUNK = 1 << 14  # blocks at a time: six uint64 arrays of this length stay in cache

_FEISTEL_ROUNDS = 12  # with fewer rounds, permutations of 5 or 6 elements are visibly not uniform


def philox4x32(
    counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], *, seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The four 32-bit words of each block, as uint64 arrays of the counters' broadcast shape. One Philox round
    multiplies two of the words by constants, to 64-bit products, and mixes their high halves with the other words and
    the round key.

    Args:
        counter: Four scalars or arrays of integers below 2^32.
        seed: The key, from 0 to 2^64 - 1.
    """
    seed = _uint("seed", seed, 64)
    shape = np.broadcast_shapes(*(np.shape(word) for word in counter))
    c0, c1, c2, c3 = (np.full(shape, word, dtype=np.uint64) for word in counter)
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    mask, half = np.uint64(_MASK32), np.uint64(32)
    m0, m1 = map(np.uint64, _MULTIPLIERS)
    for i in range(_ROUNDS):
        k0, k1 = (
            np.uint64((key + i * weyl) & _MASK32) for key, weyl in zip((seed & _MASK32, seed >> 32), _WEYL, strict=True)
        )
        np.multiply(c0, m0, out=p0)
        np.multiply(c2, m1, out=p1)
        np.right_shift(p1, half, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, k0, out=c0)
        np.bitwise_and(p1, mask, out=c1)
        np.right_shift(p0, half, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, k1, out=c2)
        np.bitwise_and(p0, mask, out=c3)
    return c0, c1, c2, c3


def bits(n: int, *, seed: int, stream: int, substream: int = 0, offset: int = 0) -> NDArray[np.uint32]:
    """`n` random 32-bit words, uint32 (n,).

    Args:
        n: At least 0.
        seed: From 0 to 2^64 - 1.
        stream: The purpose of the draw, a `Stream`.
        substream: A part of the stream, such as the number of a layer or of a kind of augmentation.
        offset: The block of four words at which the draw starts.
    """
    n = _uint("n", n, 63)
    out = np.empty(n, dtype=np.uint32)
    for where, words in _chunks(n, seed, stream, substream, offset):
        out[where] = words
    return out


def uniform(
    shape: int | tuple[int, ...],
    *,
    low: float = 0.0,
    high: float = 1.0,
    seed: int,
    stream: int,
    substream: int = 0,
    offset: int = 0,
    dtype: DTypeLike = "float32",
) -> np.ndarray:
    """Uniform numbers: low + (high - low) * u with u = (word >> 8) * 2^-24 in [0, 1).

    u has 24 bits, so it is exact in float32. Each number is computed in float64, then rounded to `dtype`
    (16-bit floats through float32), which may give `high` itself.

    Args:
        shape: The shape of the result.
        low, high: The bounds, finite, and high at least low.
        dtype: A float dtype.

    Other arguments as in `bits`.
    """
    low, high = bounds(low, high)

    def draw(words: NDArray[np.uint32]) -> NDArray[np.floating]:
        return low + (high - low) * ((words >> np.uint32(8)) * 2.0**-24)

    return _fill(shape, draw, seed, stream, substream, offset, dtype)


def normal(
    shape: int | tuple[int, ...],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int,
    stream: int,
    substream: int = 0,
    offset: int = 0,
    dtype: DTypeLike = "float32",
) -> np.ndarray:
    """Normal numbers: mean + std * inverse_normal_cdf((word + 0.5) * 2^-32), rounded to `dtype` (16-bit floats through
    float32).

    One word gives one number, so elements are independent. All arithmetic is float64 and uses only
    + - * / sqrt and exponent extraction, which IEEE 754 defines to the last bit. A math library's
    log is not defined like that: it differs between machines, and so would the weights. (On a GPU,
    compile this without fused multiply-add.)

    Args:
        shape: The shape of the result.
        mean: The mean, finite.
        std: The standard deviation, finite, at least 0.
        dtype: A float dtype.

    Other arguments as in `bits`.
    """
    mean, std = number("mean", mean, -math.inf), number("std", std, 0.0)

    def draw(words: NDArray[np.uint32]) -> NDArray[np.floating]:
        return mean + std * inverse_normal_cdf((words + 0.5) * 2.0**-32)

    return _fill(shape, draw, seed, stream, substream, offset, dtype)


def permutation(n: int, *, seed: int, epoch: int = 0, stream: int = SHUFFLE) -> NDArray[np.int64]:
    """A pseudo-random permutation of 0..n-1, int64 (n,), whose elements can be computed independently.

    A Feistel network over pairs (l, r) of Z_a x Z_b, where a is the square root of n, rounded up,
    and b is n / a, rounded up. One round adds to l a Philox word computed from r, the next adds to
    r a word computed from l, and so on. Each word is scaled to [0, a) or [0, b). Each round is
    invertible, so the network permutes a * b values. It is applied again to values of n or above until they are below n
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It needs no sort and no
    memory: a GPU thread computes element i from i.

    Args:
        n: At least 0.
        seed: From 0 to 2^64 - 1.
        epoch: Each epoch has its own permutation.
        stream: As in `bits`.
    """
    n = _uint("n", n, 62)
    stream = _uint("stream", stream, 32)
    epoch = _uint("epoch", epoch, 32)
    out = np.empty(n, dtype=np.int64)
    for start in range(0, n, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, n), dtype=np.uint64)
        value = _feistel(index, n, seed, stream, epoch)
        while (outside := value >= n).any():
            value[outside] = _feistel(value[outside], n, seed, stream, epoch)
        out[start : start + index.size] = value
    return out


def _feistel(value: NDArray[np.uint64], n: int, seed: int, stream: int, epoch: int) -> NDArray[np.uint64]:
    a = math.isqrt(n - 1) + 1
    b = ceil_div(n, a)
    moduli = (np.uint64(a), np.uint64(b))
    half = list(np.divmod(value, moduli[1]))
    for i in range(_FEISTEL_ROUNDS):
        side = i % 2
        word = philox4x32((half[1 - side], i, stream, epoch), seed=seed)[0]
        step = (word * moduli[side]) >> np.uint64(32)  # uniform in [0, modulus)
        half[side] = (half[side] + step) % moduli[side]
    return half[0] * moduli[1] + half[1]


# -- shared ---------------------------------------------------------------------------------


def _uint(name: str, value: object, width: int) -> int:
    """`value`, which may be an array of one integer, as a Python int in [0, 2^width)."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return integer(name, value, 0, 2**width - 1)


def _chunks(n: int, seed: int, stream: int, substream: int, offset: int) -> Iterator[tuple[slice, NDArray[np.uint32]]]:
    """The words 0..n-1 of a stream in cache-sized pieces, each with the slice that it fills."""
    stream = _uint("stream", stream, 32)
    substream = _uint("substream", substream, 32)
    offset = _uint("offset", offset, 64)
    blocks = ceil_div(n, 4)
    _uint("the last block (offset + number of blocks - 1)", offset + max(blocks - 1, 0), 64)
    for first in range(0, blocks, _CHUNK):
        count = min(_CHUNK, blocks - first)
        block = np.arange(count, dtype=np.uint64) + np.uint64(offset + first)
        counter = (block & np.uint64(_MASK32), block >> np.uint64(32), stream, substream)
        words = np.empty((count, 4), dtype=np.uint32)
        for i, word in enumerate(philox4x32(counter, seed=seed)):
            words[:, i] = word
        where = slice(4 * first, min(4 * (first + count), n))
        yield where, words.reshape(-1)[: where.stop - where.start]


def _fill(
    shape: int | tuple[int, ...],
    draw: Callable[..., np.ndarray],
    seed: int,
    stream: int,
    substream: int,
    offset: int,
    dtype: DTypeLike,
) -> np.ndarray:
    sizes = shape if isinstance(shape, Iterable) else (shape,)
    checked = [integer(f"shape[{axis}]", size, 0) for axis, size in enumerate(sizes)]
    out = np.empty(checked, dtype=as_dtype(dtype))
    flat = out.reshape(-1)
    accumulate = accumulation_dtype(out.dtype)
    for where, words in _chunks(flat.size, seed, stream, substream, offset):
        flat[where] = draw(words).astype(accumulate, copy=False)
    return out
