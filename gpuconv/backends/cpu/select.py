"""Selection of floats through their bits: exact in every dtype, including NaN and -0, and without branches.

`as_bits(x) * mask` is x where the mask is true and +0 elsewhere (x * mask would turn infinity into NaN). If the
mask has no pattern that a processor could predict, this is several times faster than `numpy.where` or `numpy.copyto`.
"""

from __future__ import annotations

import numpy as np

_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def as_bits(x: np.ndarray) -> np.ndarray:
    """A view of a float array as unsigned integers of its size."""
    return x.view(_UNSIGNED[x.dtype.itemsize])


def keep(x: np.ndarray, mask: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """x where the mask holds, else +0."""
    out = np.empty(x.shape, x.dtype) if out is None else out
    np.multiply(as_bits(x), mask, out=as_bits(out))
    return out


def replace(x: np.ndarray, mask: np.ndarray, new: np.ndarray) -> None:
    """Set x = new where the mask holds."""
    bits = as_bits(x)
    bits ^= (bits ^ as_bits(new)) * mask
