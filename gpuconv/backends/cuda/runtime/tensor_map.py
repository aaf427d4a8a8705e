"""Descriptors of tensors, for kernels that copy tensors in tiles (kernels/bulk_copy.cuh). A launch passes a descriptor
as `TensorMap`. No GPU has read one of these yet.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.tensor_map import TENSOR_MAP, expect_mappable
from gpuconv.backends.cuda.emulator.tensor_map import tensor_map as emulated_map
from gpuconv.types import Array

_ALIGNMENT = 64  # bytes, of a CUtensorMap in host memory

# Values of the enumerations in cuda.h. The dtype matters only if numbers outside the array are NaN; here they are 0.
_UINTS = {1: 0, 2: 1, 4: 2, 8: 4}  # CUtensorMapDataType, by the bytes of a number
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle
_NOT_INTERLEAVED = _ZEROS_OUTSIDE = 0  # CUtensorMapInterleave, CUtensorMapFloatOOBfill
_LINES_OF_128_BYTES = 2  # CUtensorMapL2promotion: what a read of less than 128 bytes brings into L2


def tensor_map(array: Array, box: Sequence[int], swizzle: int = 0) -> np.void:
    """The tensor map of an array on a GPU or the emulated device, for a kernel that copies boxes of it. A map holds the
    array's address, and does not keep the array alive.

    box: a box's extent in each of the array's dimensions, 1 to 256 each, the last one a multiple of 16 bytes. swizzle:
    0, or 32, 64 or 128 bytes, which the last extent must not exceed. Raises ValueError if these or CUDA's other
    limits are exceeded. On a GPU, raises OSError without a driver, and RuntimeError if the driver refuses the map.
    """
    if isinstance(array, emulator.EmulatedArray):
        return emulated_map(array, box, swizzle)
    return _encoded(array.data.ptr, array.shape, array.strides, array.dtype.itemsize, tuple(box), swizzle)


@functools.lru_cache(maxsize=1024)
def _encoded(
    base: int, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, box: tuple[int, ...], swizzle: int
) -> np.void:
    expect_mappable(base, shape, strides, itemsize, box, swizzle)
    rank, memory = len(shape), np.zeros(TENSOR_MAP.itemsize + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    status = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(memory.ctypes.data + begin),
        ctypes.c_int(_UINTS[itemsize]),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(base),
        (ctypes.c_uint64 * rank)(*shape[::-1]),
        (ctypes.c_uint64 * (rank - 1))(*strides[-2::-1]),
        (ctypes.c_uint32 * rank)(*box[::-1]),
        (ctypes.c_uint32 * rank)(*[1] * rank),  # copies every number of a box
        ctypes.c_int(_NOT_INTERLEAVED),
        ctypes.c_int(_SWIZZLES[swizzle]),
        ctypes.c_int(_LINES_OF_128_BYTES),
        ctypes.c_int(_ZEROS_OUTSIDE),
    )
    if status:
        raise RuntimeError(
            f"cuTensorMapEncodeTiled returned CUresult {status} for shape {shape}, strides {strides}, boxes of {box}, "
            f"a swizzle of {swizzle} bytes"
        )
    return np.frombuffer(memory[begin : begin + TENSOR_MAP.itemsize].tobytes(), TENSOR_MAP)[0]


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library. Raises OSError without one."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
