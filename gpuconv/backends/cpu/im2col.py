"""The windows of a convolution or a pool: the cells of a volume that each output reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpuconv.dtypes import accumulation_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Pair


@dataclass(frozen=True)
class Windows:
    """A grid of `count` = (P, Q) windows. Tap (r, s) of window (p, q) reads the cell

    start + (p, q) * stride + (r, s) * dilation

    of a map, and zero where that lies outside the map.
    """

    count: Pair
    kernel_size: Pair
    stride: Pair
    dilation: Pair
    start: Pair

    def copied_bytes(self, x: np.ndarray) -> int:
        """The bytes of a copy of all windows of x, in the accumulation dtype."""
        each = self.count[0] * self.count[1] * self.kernel_size[0] * self.kernel_size[1] * x.shape[3]
        return len(x) * each * accumulation_dtype(x.dtype).itemsize

    def widened(self, width: int) -> Windows:
        """Windows that each cover `width` horizontal neighbors; width divides Q."""
        (p, q), (r, s), (stride_h, stride_w), (dilation_h, dilation_w) = (
            self.count,
            self.kernel_size,
            self.stride,
            self.dilation,
        )
        wide = (width - 1) * stride_w + (s - 1) * dilation_w + 1
        return Windows((p, q // width), (r, wide), (stride_h, width * stride_w), (dilation_h, 1), self.start)

    def by_row(self, height: int) -> Windows:
        """Windows of one row of taps each, at every row of the map; height: the map's."""
        (_, q), (_, s), (_, stride), (_, dilation), (_, start) = (
            self.count,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.start,
        )
        return Windows((height, q), (1, s), (1, stride), (1, dilation), (0, start))

    def rows_through(self, r: int, height: int) -> tuple[slice, slice]:
        """The output rows p for which row r of the taps lies inside the map, and the rows of the map that they read."""
        return windows_inside(height, self.count[0], self.start[0] + r * self.dilation[0], self.stride[0])


@functools.lru_cache(1024)
def windows_of(problem: Conv2dProblem) -> Windows:
    (top, _), (left, _) = problem.padding
    return Windows((problem.p, problem.q), problem.kernel_size, problem.stride, problem.dilation, (-top, -left))


def windows_inside(size: int, count: int, shift: int, stride: int) -> tuple[slice, slice]:
    """The windows i < count with 0 <= i * stride + shift < size, and these positions, along one axis."""
    first = max(0, -(shift // stride))
    last = max(first, min(count, (size - 1 - shift) // stride + 1))
    return slice(first, last), slice(first * stride + shift, last * stride + shift, stride)


class Im2colView:
    """The windows of the images x (N, H, W, C) as one view (N, P, Q, R, S, C), in the accumulation dtype. The windows
    overlap in memory, so no cell is copied twice, and the view is read-only.

    If windows reach beyond an image, or x has another dtype, the part of x that they read is copied into a zero-padded
    buffer, `images` images at a time.
    """

    def __init__(self, windows: Windows, x: np.ndarray, images: int) -> None:
        self.x, self.region = x, _input_region(windows, x.shape[1:3])
        dtype = accumulation_dtype(x.dtype)
        self.buffer = self._buffer(images, dtype) if self.region.reaches_outside or x.dtype != dtype else None
        inside = x[:, *self.region.cells] if self.buffer is None else self.buffer
        n, h, w, c = inside.strides
        (sh, sw), (dh, dw) = windows.stride, windows.dilation
        self.all = np.lib.stride_tricks.as_strided(
            inside,
            (len(inside), *windows.count, *windows.kernel_size, x.shape[3]),
            (n, h * sh, w * sw, h * dh, w * dw, c),
            writeable=False,
        )

    def of(self, images: slice) -> np.ndarray:
        """The view of these images, valid until the next call."""
        if self.buffer is None:
            return self.all[images]
        count = images.stop - images.start
        self.buffer[:count, *self.region.place] = self.x[images, *self.region.cells]
        return self.all[:count]

    def _buffer(self, images: int, dtype: np.dtype) -> np.ndarray:
        buffer = np.empty((images, *self.region.size, self.x.shape[3]), dtype)
        rows, columns = self.region.place
        buffer[:, : rows.start] = buffer[:, rows.stop :] = 0
        buffer[:, :, : columns.start] = buffer[:, :, columns.stop :] = 0
        return buffer


class Region(NamedTuple):
    """The rectangle of cells that windows read, along height and width; it may reach beyond the map."""

    size: tuple[int, ...]
    cells: tuple[slice, ...]  # those inside the map
    place: tuple[slice, ...]  # their position in the rectangle
    reaches_outside: bool


@functools.lru_cache(1024)
def _input_region(windows: Windows, hw: Pair) -> Region:
    size, cells, place = [], [], []
    for axis in (0, 1):
        first = windows.start[axis]
        span = windows.dilation[axis] * (windows.kernel_size[axis] - 1) + 1
        last = max(first, first + (windows.count[axis] - 1) * windows.stride[axis] + span)
        start = min(max(first, 0), hw[axis])
        stop = max(start, min(last, hw[axis]))
        size.append(last - first)
        cells.append(slice(start, stop))
        place.append(slice(start - first, stop - first))
    outside = any(length > part.stop - part.start for length, part in zip(size, cells))
    return Region(tuple(size), tuple(cells), tuple(place), outside)
