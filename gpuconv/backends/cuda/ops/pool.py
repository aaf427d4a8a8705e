"""Pooling: launchers of kernels/max_pool2d.cu, avg_pool2d.cu and global_avg_pool2d.cu."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gpuconv.backends.cuda.runtime.device_array import empty
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.outputs import (
    THREADS,
    buffer,
    ceil_div,
    contiguous,
    flat_grid,
    pack_width,
    pitch_of,
    store,
)
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.problems import Pool2dProblem
from gpuconv.types import Array, ArrayT

_SIZES = ("h", "w", "packs", "p", "q", "r", "s", "stride_h", "stride_w", "top", "left", "padded_h", "padded_w")
_POOL = np.dtype([(name, np.int32) for name in _SIZES], align=True)
_LARGEST_PART = 2**31  # elements that one launch may index: a uint32 must also hold an index one stride past them


@functools.lru_cache(maxsize=4096)
def _packed(problem: Pool2dProblem, width: int) -> np.void:
    """The kernels' `struct Pool`. width: how many channels move at once."""
    (top, bottom), (left, right) = problem.padding
    sizes = (problem.h, problem.w, problem.c // width, problem.p, problem.q, problem.r, problem.s, *problem.stride)
    return struct(_POOL, *sizes, top, left, problem.h + bottom, problem.w + right)


def launch_over_packs(
    file: str,
    kernel: str,
    macros: Mapping[str, object],
    problem: Pool2dProblem,
    outs: Sequence[Array],
    inputs: Sequence[Array],
    *,
    masks: Sequence[Array] = (),
    group: int | None = None,
) -> None:
    """Launch a kernel(outs..., inputs..., masks..., count, pool), a thread for each pack of the first output. With
    `group`, packs do not cross groups of that many channels; the only input may then be rows with a pitch, and the
    kernel also receives `group` and that pitch in packs.

    Volumes too large for the kernel's 32-bit indices are split into parts of several images.
    """
    arrays, images = (*outs, *inputs), problem.n
    if not outs[0].size:
        return
    pitch = pitch_of(inputs[0]) or problem.c
    width = pack_width(arrays[0].dtype, *arrays, count=math.gcd(problem.c if group is None else group, pitch))
    more = () if group is None else (group, pitch // width)
    run = load(file, {"DTYPE": arrays[0].dtype, "WIDTH": width, **macros}).kernel(kernel)
    largest = max(array.size // problem.c * pitch for array in arrays) // images
    if largest >= _LARGEST_PART:
        raise ValueError(f"a pool takes fewer than {_LARGEST_PART} elements per image, received {largest}")
    step = max(1, (_LARGEST_PART - 1) // largest)
    for first in range(0, images, step):
        part = [array[first : first + step] if step < images else array for array in (*arrays, *masks)]
        count = part[0].size // width
        run(flat_grid(count), THREADS, *(rows_of(array)[0] for array in part), count, _packed(problem, width), *more)


def max_pool2d(x: ArrayT, problem: Pool2dProblem, *, out: ArrayT | None) -> tuple[ArrayT, ArrayT]:
    (x,) = contiguous(x)
    y = buffer(out, problem.y_shape, x.dtype, like=x)
    argmax = empty(problem.y_shape, problem.argmax_dtype, like=x)
    macros: dict[str, object] = {"ARGMAX": argmax.dtype}
    launch_over_packs("max_pool2d.cu", "max_pool2d_forward", macros, problem, (y, argmax), (x,))
    return store(y, out), argmax


def max_pool2d_backward(dy: ArrayT, argmax: Array, problem: Pool2dProblem, *, out: ArrayT | None) -> ArrayT:
    dy, argmax = contiguous(dy, argmax)
    dx = buffer(out, problem.x_shape, dy.dtype, like=dy)
    macros: dict[str, object] = {"ARGMAX": argmax.dtype}
    launch_over_packs("max_pool2d.cu", "max_pool2d_backward", macros, problem, (dx,), (dy, argmax))
    return store(dx, out)


def avg_pool2d(x: ArrayT, problem: Pool2dProblem, *, count_include_pad: bool, out: ArrayT | None) -> ArrayT:
    (x,) = contiguous(x)
    y = buffer(out, problem.y_shape, x.dtype, like=x)
    launch_over_packs(
        "avg_pool2d.cu", "avg_pool2d_forward", {"INCLUDE_PAD": int(count_include_pad)}, problem, (y,), (x,)
    )
    return store(y, out)


def avg_pool2d_backward(dy: ArrayT, problem: Pool2dProblem, *, count_include_pad: bool, out: ArrayT | None) -> ArrayT:
    (dy,) = contiguous(dy)
    dx = buffer(out, problem.x_shape, dy.dtype, like=dy)
    launch_over_packs(
        "avg_pool2d.cu", "avg_pool2d_backward", {"INCLUDE_PAD": int(count_include_pad)}, problem, (dx,), (dy,)
    )
    return store(dx, out)


def _global(dtype: np.dtype, channels: int) -> tuple[Module, int]:
    columns = min(32, 1 << (channels - 1).bit_length())
    return load("global_avg_pool2d.cu", {"DTYPE": dtype, "COLUMNS": columns}), columns


def global_avg_pool2d(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    (n, h, w, c), (x,) = x.shape, contiguous(x)
    y = buffer(out, (n, 1, 1, c), x.dtype, like=x)
    if y.size:
        module, columns = _global(x.dtype, c)
        grid, block = (n, ceil_div(c, columns)), (columns, THREADS // columns)
        module.kernel("global_avg_pool2d_forward")(grid, block, y, x, h * w, c)
    return store(y, out)


def global_avg_pool2d_backward(dy: ArrayT, *, input_shape: Sequence[int], out: ArrayT | None) -> ArrayT:
    (_, h, w, c), (dy,) = input_shape, contiguous(dy)
    dx = buffer(out, input_shape, dy.dtype, like=dy)
    if dx.size:
        module, _ = _global(dy.dtype, c)
        module.kernel("global_avg_pool2d_backward")(flat_grid(dx.size), THREADS, dx, dy, dx.size, h * w, c)
    return store(dx, out)
