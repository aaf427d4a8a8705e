"""Pooling: launchers of kernels/max_pool2d.cu, avg_pool2d.cu and global_avg_pool2d.cu."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, pack_width, pitch_of, store
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.integers import ceil_div
from gpuconv.problems import Pool2dProblem
from gpuconv.types import Array, ArrayT

_SIZES = ("h", "w", "packs", "p", "q", "r", "s", "stride_h", "stride_w", "top", "left", "padded_h", "padded_w")
_POOL = np.dtype([(name, np.int32) for name in _SIZES] + [("x_packs", np.uint32), ("y_packs", np.uint32)], align=True)
_LARGEST_PART = 2**31  # a launch indexes fewer elements than this, because uint32 indices go one stride past the last


@functools.lru_cache(maxsize=4096)
def _packed(problem: Pool2dProblem, width: int, x_pitch: int, y_pitch: int) -> np.void:
    """The kernels' `struct Pool`. width: how many channels move at once."""
    (top, bottom), (left, right) = problem.padding
    sizes = (problem.h, problem.w, problem.c // width, problem.p, problem.q, problem.r, problem.s, *problem.stride)
    ends = problem.h + bottom, problem.w + right
    return struct(_POOL, *sizes, top, left, *ends, x_pitch // width, y_pitch // width)


def launch_over_packs(
    file: str,
    kernel: str,
    macros: Mapping[str, object],
    problem: Pool2dProblem,
    volumes: Sequence[Array],
    *,
    x: Array,
    y: Array,
    mask: Array | None = None,
    group: int | None = None,
) -> None:
    """Launch a kernel(volumes..., [mask,] count, pool[, group]), a thread for each pack of the first volume.

    x, y: the pool's input and output, or their gradients; both may be rows with a pitch. group: packs do not cross
    groups of this many channels.

    Volumes too large for the kernel's 32-bit indices are split into parts of one or more images. Raises ValueError if a
    single image is too large.
    """
    images = problem.n
    if not volumes[0].size:
        return
    pitches = pitch_of(x) or problem.c, pitch_of(y) or problem.c
    width = pack_width(x.dtype, *volumes, count=math.gcd(problem.c if group is None else group, *pitches))
    more = () if group is None else (group,)
    run = load(file, {"DTYPE": x.dtype, "WIDTH": width, **macros}).kernel(kernel)
    largest = max(array.size // problem.c * pitch for array, pitch in zip((x, y), pitches)) // images
    if largest >= _LARGEST_PART:
        raise ValueError(f"a pool takes fewer than {_LARGEST_PART} elements per image, received {largest}")
    step = max(1, (_LARGEST_PART - 1) // largest)
    arrays = volumes if mask is None else (*volumes, mask)
    for first in range(0, images, step):
        part = [array[first : first + step] if step < images else array for array in arrays]
        count, pool = part[0].size // width, _packed(problem, width, *pitches)
        run(flat_grid(count), THREADS, *(rows_of(array)[0] for array in part), count, pool, *more)


def max_pool2d(x: ArrayT, problem: Pool2dProblem, *, out: ArrayT | None) -> tuple[ArrayT, ArrayT]:
    y = buffer(out, problem.y_shape, x.dtype, like=x, pitched=True)
    argmax = empty(problem.y_shape, problem.argmax_dtype, like=x)
    macros: dict[str, object] = {"ARGMAX": argmax.dtype}
    launch_over_packs("max_pool2d.cu", "max_pool2d_forward", macros, problem, (y, argmax, x), x=x, y=y)
    return store(y, out), argmax


def max_pool2d_backward(dy: ArrayT, argmax: Array, problem: Pool2dProblem, *, out: ArrayT | None) -> ArrayT:
    (argmax,) = contiguous(argmax)
    dx = buffer(out, problem.x_shape, dy.dtype, like=dy, pitched=True)
    macros: dict[str, object] = {"ARGMAX": argmax.dtype}
    launch_over_packs("max_pool2d.cu", "max_pool2d_backward", macros, problem, (dx, dy, argmax), x=dx, y=dy)
    return store(dx, out)


def avg_pool2d(x: ArrayT, problem: Pool2dProblem, *, count_include_pad: bool, out: ArrayT | None) -> ArrayT:
    y, macros = buffer(out, problem.y_shape, x.dtype, like=x, pitched=True), {"INCLUDE_PAD": int(count_include_pad)}
    launch_over_packs("avg_pool2d.cu", "avg_pool2d_forward", macros, problem, (y, x), x=x, y=y)
    return store(y, out)


def avg_pool2d_backward(dy: ArrayT, problem: Pool2dProblem, *, count_include_pad: bool, out: ArrayT | None) -> ArrayT:
    dx, macros = buffer(out, problem.x_shape, dy.dtype, like=dy, pitched=True), {"INCLUDE_PAD": int(count_include_pad)}
    launch_over_packs("avg_pool2d.cu", "avg_pool2d_backward", macros, problem, (dx, dy), x=dx, y=dy)
    return store(dx, out)


def _global_pool_module(dtype: np.dtype, channels: int) -> tuple[Module, int]:
    """The module, and how many channels a block of the forward kernel takes: a power of two, at most WARP."""
    columns = min(WARP, 1 << (channels - 1).bit_length())
    return load("global_avg_pool2d.cu", {"DTYPE": dtype, "COLUMNS": columns}), columns


def global_avg_pool2d(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    n, h, w, c = x.shape
    y = buffer(out, (n, 1, 1, c), x.dtype, like=x, pitched=True)
    if y.size:
        (x, x_pitch), (flat, y_pitch) = rows_of(x), rows_of(y)
        module, columns = _global_pool_module(x.dtype, c)
        grid, block = (n, ceil_div(c, columns)), (columns, THREADS // columns)
        module.kernel("global_avg_pool2d_forward")(grid, block, flat, x, h * w, c, y_pitch, x_pitch)
    return store(y, out)


def global_avg_pool2d_backward(dy: ArrayT, *, input_shape: Sequence[int], out: ArrayT | None) -> ArrayT:
    (_, h, w, c), (dy, pitch) = input_shape, rows_of(dy)
    dx = buffer(out, input_shape, dy.dtype, like=dy)
    if dx.size:
        module, _ = _global_pool_module(dy.dtype, c)
        module.kernel("global_avg_pool2d_backward")(flat_grid(dx.size), THREADS, dx, dy, dx.size, h * w, c, pitch)
    return store(dx, out)
