"""What the launchers share: contiguous inputs, outputs, and grids for kernels over a flat range."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.cuda.device_array import empty, is_aligned

THREADS = 256  # a block, for kernels over a flat range
_MAX_BLOCKS = 2**31 - 1


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def flat_grid(work: int, threads: int = THREADS) -> int:
    """How many blocks give each of `work` items a thread; kernels stride over what is left past the largest grid."""
    return min(ceil_div(work, threads), _MAX_BLOCKS)


def contiguous(*arrays: Any) -> tuple[Any, ...]:
    """The arrays, each copied if it is a strided view; None stays."""
    return tuple([a if a is None or a.flags.c_contiguous else copied(a) for a in arrays])


def copied(array: Any) -> Any:
    """A contiguous copy on the same device."""
    copy = empty(array.shape, array.dtype, like=array)
    copy[...] = array
    return copy


def pack_width(dtype: Any, *arrays: Any) -> int:
    """How many elements one 16-byte move takes, or 1 where an array does not begin at a multiple of 16 bytes."""
    return 16 // np.dtype(dtype).itemsize if is_aligned(16, *arrays) else 1


def device_scalar(value: Any, dtype: Any) -> tuple[Any, Any]:
    """A scalar that may live in device memory, as a kernel's two parameters (array or None, number).

    The kernel reads the array, where there is one, when it runs: so a captured step sees the value of the moment.
    Raises TypeError for an array of another dtype.
    """
    if not hasattr(value, "dtype") or isinstance(value, np.generic):
        return None, value
    if value.dtype != np.dtype(dtype):
        raise TypeError(f"a scalar in device memory must be {np.dtype(dtype).name} here, received {value.dtype.name}")
    return value, 0


def write_to(
    out: Any, shape: Sequence[int], dtype: Any, like: Any, write: Callable[[Any], None], *, keep: bool = False
) -> Any:
    """Have `write` fill an output and return it: `out`, or a new array where out is None.

    A strided `out` is filled through a contiguous copy. keep: `write` also reads what is there (it accumulates).
    """
    if out is None:
        out = empty(shape, dtype, like=like)
    target = out if out.flags.c_contiguous else copied(out) if keep else empty(shape, dtype, like=like)
    if math.prod(shape):
        write(target)
    if target is not out:
        out[...] = target
    return out


@contextlib.contextmanager
def updated(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays as a kernel can change them in place: a strided one as a contiguous copy, copied back at the end."""
    targets = contiguous(*arrays)
    yield targets
    for array, target in zip(arrays, targets):
        if target is not array:
            array[...] = target
