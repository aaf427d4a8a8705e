"""Dropout: backward draws the mask again from the same position of the same stream, so none is stored."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.elementwise import elementwise
from gpuconv.backends.cpu.select import keep
from gpuconv.host_values import value_of
from gpuconv.random import DROPOUT, bits
from gpuconv.types import Scalar


def dropout(x, *, p, seed, substream, offset, first, out):
    kept = keep(x, _mask(x.shape, p, seed, substream, offset, first), out)
    scale = 1 / (1 - p)
    return elementwise(lambda x: x * scale, kept, out=kept)


def dropout_backward(dy, *, p, seed, substream, offset, first, out):
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out)


def _mask(shape: tuple[int, ...], p: float, seed: int, substream: int, offset: Scalar, first: int) -> np.ndarray:
    """True where uniform = (word >> 8) * 2**-24 is at least p. Integers are compared, so that p is not rounded."""
    blocks, before = divmod(first, 4)
    at, count = value_of(offset) + blocks, math.prod(shape)
    words = bits(before + count, seed=seed, stream=DROPOUT, substream=substream, offset=at)[before:]
    return (words >= math.ceil(p * 2**24) << 8).reshape(shape)
