"""Dropout. The contract defines its bits: which numbers are kept, and a product in the accumulation dtype."""

import math

import numpy as np

from gpuconv.backends.reference.precision import number, round_to
from gpuconv.dtypes import accumulation_dtype
from gpuconv.random import DROPOUT, bits


def dropout(x, *, p, seed, substream, offset, out):
    words = bits(math.prod(x.shape), seed=seed, stream=DROPOUT, substream=substream, offset=number(offset))
    uniform, accumulator = (words >> 8) * 2.0**-24, accumulation_dtype(x.dtype)
    scaled = x.astype(accumulator) * accumulator.type(1 / (1 - p))
    return round_to(np.where(uniform.reshape(x.shape) >= p, scaled, 0), x.dtype, out)


def dropout_backward(dy, *, p, seed, substream, offset, out):
    return dropout(dy, p=p, seed=seed, substream=substream, offset=offset, out=out)
