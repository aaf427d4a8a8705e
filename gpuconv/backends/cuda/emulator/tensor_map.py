"""Descriptors of tensors for bulk copies by tiles, as the emulated device reads them (kernels/bulk_copy.cuh)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.backends.cuda.emulator.array import EmulatedArray

BYTES = 128  # bytes of a CUtensorMap
_MAGIC = 0x70616D726F736E74
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
    """The tensor map of an array, for a kernel that copies boxes of it. The limits are those of cuTensorMapEncodeTiled.

    box: a box's extent in each of the array's dimensions, 1 to 256 each, the last one a multiple of 16 bytes. swizzle:
    0, or 32, 64 or 128 bytes, which the last extent must not exceed. Raises ValueError.
    """
    rank, item = array.ndim, array.dtype.itemsize
    line = box[-1] * item if len(box) else 0
    if not 2 <= rank <= 5 or len(box) != rank:
        raise ValueError(f"a tensor map takes 2 to 5 dimensions and an extent for each, received {rank} and {len(box)}")
    if not all(1 <= extent <= 256 for extent in box):
        raise ValueError(f"a box has extents from 1 to 256, received {tuple(box)}")
    if line % 16:
        raise ValueError(f"a box's last extent is a multiple of 16 bytes, received {box[-1]} numbers of {item} bytes")
    if swizzle not in (0, 32, 64, 128) or (swizzle and line > swizzle):
        raise ValueError(
            f"swizzle is 0, or 32, 64 or 128 bytes and at least a box's line of {line}, received {swizzle}"
        )
    host = np.asarray(array)
    if any(stride % 16 for stride in host.strides[:-1]) or host.strides[-1] != item:
        raise ValueError(
            f"an array's rows begin at multiples of 16 bytes and have no gaps, received strides {host.strides}"
        )
    packed = np.zeros((), _LAYOUT)
    packed["magic"], packed["base"], packed["rank"] = _MAGIC, host.ctypes.data, rank
    packed["element_bytes"], packed["swizzle"] = item, swizzle
    packed["size"][:rank], packed["box"][:rank], packed["stride"][:rank] = (
        host.shape[::-1],
        box[::-1],
        host.strides[::-1],
    )
    return np.frombuffer(packed.tobytes().ljust(BYTES, b"\0"), f"V{BYTES}")[0]
