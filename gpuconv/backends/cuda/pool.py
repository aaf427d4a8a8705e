"""Pooling: launchers of kernels/max_pool2d.cu, avg_pool2d.cu and global_avg_pool2d.cu."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuconv.backends.cuda.device_array import empty
from gpuconv.backends.cuda.launch import THREADS, ceil_div, contiguous, flat_grid, pack_width, write_to
from gpuconv.backends.cuda.module import load
from gpuconv.shapes import argmax_dtype, output_hw

__all__ = [
    "avg_pool2d",
    "avg_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

_POOL = np.dtype(
    [
        (name, np.int32)
        for name in (
            "h",
            "w",
            "packs",
            "p",
            "q",
            "r",
            "s",
            "stride_h",
            "stride_w",
            "top",
            "left",
            "padded_h",
            "padded_w",
        )
    ],
    align=True,
)
_LARGEST_PART = 2**31  # elements that one launch may index, in uint32 with room for a thread's stride


@functools.lru_cache(maxsize=1024)
def _geometry(input_shape: Any, width: int, kernel_size: Any, stride: Any, padding: Any, fit: str) -> Any:
    """The kernels' `struct Pool`."""
    _, h, w, c = input_shape
    (top, bottom), (left, right) = padding
    p, q = output_hw((h, w), kernel_size, stride, padding, fit=fit)
    return np.array((h, w, c // width, p, q, *kernel_size, *stride, top, left, h + bottom, w + right), _POOL)[()]


def _width(channels: int, dtype: Any, *arrays: Any) -> int:
    width = pack_width(dtype, *arrays)
    return 1 if channels % width else width


def _output_shape(x: Any, window: dict[str, Any]) -> tuple[int, ...]:
    n, h, w, c = x.shape
    p, q = output_hw((h, w), window["kernel_size"], window["stride"], window["padding"], fit=window["fit"])
    return n, p, q, c


def _run(
    file: str, kernel: str, macros: dict[str, Any], window: dict[str, Any], input_shape: Any, outs: Any, inputs: Any
) -> None:
    """Launch a kernel(outs..., inputs..., count, pool), a thread for each pack of the first output.

    Volumes too large for the kernel's 32-bit indices go in parts, some images at a time.
    """
    dtype = outs[0].dtype
    width = _width(input_shape[3], dtype, *outs, *inputs)
    pool = _geometry(input_shape, width, **window)
    run = load(file, {"DTYPE": dtype.name, "WIDTH": width, **macros}).kernel(kernel)
    images = input_shape[0]
    largest = max(array.size for array in (*outs, *inputs)) // images
    if largest >= _LARGEST_PART:
        raise ValueError(f"a pool indexes fewer than {_LARGEST_PART} elements an image, received {largest}")
    step = max(1, (_LARGEST_PART - 1) // largest)
    for first in range(0, images, step):
        part = slice(first, first + step)
        arrays = [array[part] if step < images else array for array in (*outs, *inputs)]
        count = arrays[0].size // width
        run(flat_grid(count), THREADS, *arrays, count, pool)


def max_pool2d(
    x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0, fit: str = "floor", out: Any = None
) -> Any:
    window = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    (x,) = contiguous(x)
    shape = _output_shape(x, window)
    argmax = empty(shape, argmax_dtype(kernel_size), like=x)

    def write(y: Any) -> None:
        _run("max_pool2d.cu", "max_pool2d_forward", {"ARGMAX": argmax.dtype.name}, window, x.shape, (y, argmax), (x,))

    return write_to(out, shape, x.dtype, x, write), argmax


def max_pool2d_backward(
    dy: Any,
    argmax: Any,
    *,
    input_shape: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    fit: str = "floor",
    out: Any = None,
) -> Any:
    window = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    dy, argmax = contiguous(dy, argmax)

    def write(dx: Any) -> None:
        macros = {"ARGMAX": argmax.dtype.name}
        _run("max_pool2d.cu", "max_pool2d_backward", macros, window, input_shape, (dx,), (dy, argmax))

    return write_to(out, input_shape, dy.dtype, dy, write)


def avg_pool2d(
    x: Any,
    *,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    count_include_pad: bool = True,
    fit: str = "floor",
    out: Any = None,
) -> Any:
    window = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    (x,) = contiguous(x)

    def write(y: Any) -> None:
        _run(
            "avg_pool2d.cu", "avg_pool2d_forward", {"INCLUDE_PAD": int(count_include_pad)}, window, x.shape, (y,), (x,)
        )

    return write_to(out, _output_shape(x, window), x.dtype, x, write)


def avg_pool2d_backward(
    dy: Any,
    *,
    input_shape: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    count_include_pad: bool = True,
    fit: str = "floor",
    out: Any = None,
) -> Any:
    window = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    (dy,) = contiguous(dy)

    def write(dx: Any) -> None:
        macros = {"INCLUDE_PAD": int(count_include_pad)}
        _run("avg_pool2d.cu", "avg_pool2d_backward", macros, window, input_shape, (dx,), (dy,))

    return write_to(out, input_shape, dy.dtype, dy, write)


def _global(dtype: Any, channels: int) -> tuple[Any, int]:
    columns = min(32, 1 << (channels - 1).bit_length())
    return load("global_avg_pool2d.cu", {"DTYPE": dtype.name, "COLUMNS": columns}), columns


def global_avg_pool2d(x: Any, *, out: Any = None) -> Any:
    n, h, w, c = x.shape
    (x,) = contiguous(x)

    def write(y: Any) -> None:
        module, columns = _global(x.dtype, c)
        grid, block = (n, ceil_div(c, columns)), (columns, THREADS // columns)
        module.kernel("global_avg_pool2d_forward")(grid, block, y, x, h * w, c)

    return write_to(out, (n, 1, 1, c), x.dtype, x, write)


def global_avg_pool2d_backward(dy: Any, *, input_shape: Any, out: Any = None) -> Any:
    _, h, w, c = input_shape
    (dy,) = contiguous(dy)

    def write(dx: Any) -> None:
        module, _ = _global(dy.dtype, c)
        module.kernel("global_avg_pool2d_backward")(flat_grid(dx.size), THREADS, dx, dy, dx.size, h * w, c)

    return write_to(out, input_shape, dy.dtype, dy, write)
