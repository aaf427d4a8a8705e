"""Dropout. The op's docstring defines its bits: which numbers are kept, and their scale in the accumulation dtype."""

import math

import numpy as np

from gpuconv.backends.reference.precision import round_to
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import value_of
from gpuconv.random import DROPOUT, bits


def dropout(x, *, p, seed, substream, offset, first, out):
    blocks, before = divmod(first, 4)
    at, count = value_of(offset) + blocks, before + math.prod(x.shape)
    words = bits(count, seed=seed, stream=DROPOUT, substream=substream, offset=at)[before:]
    uniform, accumulator = (words >> 8) * 2.0**-24, accumulation_dtype(x.dtype)
    scaled = x.astype(accumulator) * accumulator.type(1 / (1 - p))
    return round_to(np.where(uniform.reshape(x.shape) >= p, scaled, 0), x.dtype, out)


def dropout_backward(dy, *, p, seed, substream, offset, first, out):
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, first=first, out=out)
