"""Sums, copies and multiples."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu.elementwise import elementwise, result_array
from gpuconv.backends.cpu.parallel import in_parts
from gpuconv.host_values import value_of


def add(a, b, *, out):
    return elementwise(np.add, a, np.broadcast_to(b, a.shape), out=out)


def copy(x, *, out):
    result = result_array(x, out)
    in_parts(np.copyto, result, x)
    return result


def scale(x, *, factor, divisor, out):
    ratio = value_of(factor) / value_of(divisor) if value_of(divisor) else 0.0
    return elementwise(lambda x: x * x.dtype.type(ratio), x, out=out)
