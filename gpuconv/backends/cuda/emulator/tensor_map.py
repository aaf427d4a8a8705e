"""Descriptors of tensors for bulk copies by tiles, as the emulated device reads them (kernels/bulk_copy.cuh)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.arguments import INT32_MAX
from gpuconv.backends.cuda.emulator.array import EmulatedArray

TENSOR_MAP = np.dtype([("opaque", np.uint64, 16)], align=True)  # `struct TensorMap`, a CUtensorMap
_MAGIC = 0x70616D726F736E74  # marks a map that this module made: the text "tnsormap", which kernels check
_LAYOUT = np.dtype(
    [
        ("magic", np.uint64),
        ("base", np.uint64),
        ("rank", np.uint32),
        ("element_bytes", np.uint32),
        ("swizzle", np.uint32),
        ("unused", np.uint32),
        ("size", np.int32, 5),
        ("box", np.uint32, 5),
        ("stride", np.uint64, 5),
    ]
)


def tensor_map(array: EmulatedArray, box: Sequence[int], swizzle: int = 0) -> np.void:
    """The tensor map of an array, for a kernel that copies boxes of it.

    box: a box's extent in each of the array's dimensions, 1 to 256 each, the last one a multiple of 16 bytes. swizzle:
    0, or 32, 64 or 128 bytes, which the last extent must not exceed. Raises ValueError as `expect_mappable` does.
    """
    base = array.ctypes.data
    expect_mappable(base, array.shape, array.strides, array.dtype.itemsize, box, swizzle)
    return packed(base, array.shape, array.strides, array.dtype.itemsize, box, swizzle)


def expect_mappable(
    base: int, shape: Sequence[int], strides: Sequence[int], itemsize: int, box: Sequence[int], swizzle: int
) -> None:
    """Raise ValueError beyond the limits of cuTensorMapEncodeTiled, and for a dimension of 2**31 or more, because a
    kernel's coordinates are 32-bit integers. base: the array's address. strides: in bytes."""
    rank = len(shape)
    line = box[-1] * itemsize if len(box) else 0
    if not 2 <= rank <= 5 or len(box) != rank:
        raise ValueError(
            f"a tensor map takes 2 to 5 dimensions and an extent for each, received {rank} dimensions and {len(box)} "
            "extents"
        )
    if itemsize not in (1, 2, 4, 8):
        raise ValueError(f"a tensor map takes numbers of 1, 2, 4 or 8 bytes, received {itemsize}")
    if not all(1 <= extent <= 256 for extent in box):
        raise ValueError(f"a box has extents from 1 to 256, received {tuple(box)}")
    if line % 16:
        raise ValueError(
            f"a box's last extent is a multiple of 16 bytes, received {box[-1]} numbers of {itemsize} bytes"
        )
    if swizzle not in (0, 32, 64, 128) or (swizzle and line > swizzle):
        raise ValueError(
            f"swizzle is 0, or 32, 64 or 128 bytes and no less than a box's line of {line} bytes, received {swizzle}"
        )
    if 0 in shape:
        raise ValueError(f"a tensor map takes an array with elements, received shape {tuple(shape)}")
    if max(shape) > INT32_MAX or not all(0 <= stride < 2**40 for stride in strides):
        raise ValueError(
            "a tensor map takes dimensions below 2**31 and strides from 0 to below 2**40 bytes, received shape "
            f"{tuple(shape)} and strides {tuple(strides)}"
        )
    if base % 16 or any(stride % 16 for stride in strides[:-1]) or strides[-1] != itemsize:
        raise ValueError(
            "an array and its rows begin at multiples of 16 bytes and have no gaps, received address "
            f"{base:#x} and strides {tuple(strides)}"
        )


def packed(
    base: int, shape: Sequence[int], strides: Sequence[int], itemsize: int, box: Sequence[int], swizzle: int
) -> np.void:
    """The map of an array within the limits; arguments as in `expect_mappable`."""
    rank, fields = len(shape), np.zeros((), _LAYOUT)
    fields["magic"], fields["base"], fields["rank"] = _MAGIC, base, rank
    fields["element_bytes"], fields["swizzle"] = itemsize, swizzle
    fields["size"][:rank], fields["box"][:rank], fields["stride"][:rank] = shape[::-1], box[::-1], strides[::-1]
    return np.frombuffer(fields.tobytes().ljust(TENSOR_MAP.itemsize, b"\0"), TENSOR_MAP)[0]
