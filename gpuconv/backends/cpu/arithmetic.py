"""Sums and multiples."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu.elementwise import elementwise


def add(a, b, *, out):
    return elementwise(np.add, a, np.broadcast_to(b, a.shape), out=out)


def scale(x, *, factor, out):
    return elementwise(lambda x: x * x.dtype.type(factor), x, out=out)
