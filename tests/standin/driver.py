"""The CUDA driver's functions that gpuconv calls itself."""

from __future__ import annotations

import ctypes

CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE = 0, 1
_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2}  # per number, by CUtensorMapDataType
_SWIZZLES = {0: 0, 1: 32, 2: 64, 3: 128}  # bytes, by CUtensorMapSwizzle


def cuTensorMapEncodeTiled(
    to, data_type, rank, base, sizes, strides, box, steps, interleave, swizzle, promotion, fill
) -> int:
    """Writes a map in the form of the emulator, which runs the kernels of the stand-in. Refuses arguments that the
    driver's documentation forbids, and forms that gpuconv does not use."""
    from gpuconv.backends.cuda.emulator.tensor_map import packed

    count, item, swizzle_bytes = rank.value, _BYTES.get(data_type.value, 0), _SWIZZLES.get(swizzle.value, -1)
    line = box[0] * item
    valid = (
        to.value % 64 == 0
        and item > 0
        and 2 <= count <= 5
        and base.value % 16 == 0
        and [len(values) for values in (sizes, strides, box, steps)] == [count, count - 1, count, count]
        and all(1 <= size <= 2**32 for size in sizes)
        and all(stride % 16 == 0 and stride < 2**40 for stride in strides)
        and all(1 <= extent <= 256 for extent in box)
        and set(steps) == {1}
        and line % 16 == 0
        and (swizzle_bytes == 0 or line <= swizzle_bytes)
        and interleave.value == fill.value == 0
        and promotion.value in range(4)
    )
    if not valid:
        return CUDA_ERROR_INVALID_VALUE
    encoded = packed(base.value, sizes[::-1], [*strides[::-1], item], item, box[::-1], swizzle_bytes)
    ctypes.memmove(to.value, encoded.tobytes(), encoded.nbytes)
    return CUDA_SUCCESS
