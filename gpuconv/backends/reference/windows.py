"""The windows of a convolution or a pool: which cells of a volume each output reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpuconv.backends.reference.rounding import widen
from gpuconv.dtypes import accumulation_dtype

Pair = tuple[int, int]


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

    def of(self, x: np.ndarray, padded: np.ndarray | None) -> np.ndarray:
        """What the windows of x (N, H, W, C) see, (N, P, Q, R, S, C), in the accumulation dtype and without copying
        a cell twice: all windows are views of one cut of x. Read only, since windows overlap.

        padded: from `padded`, where the cut is laid in if windows reach outside.
        """
        cut = _cut(self, x.shape[1:3])
        inside = x[:, *cut.seen]
        if padded is None:
            inside = widen(inside)
        else:
            padded = padded[: len(x)]
            padded[:, *cut.place] = inside
            inside = padded
        n, h, w, c = inside.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            inside,
            (x.shape[0], *self.count, *self.kernel_size, x.shape[3]),
            (n, h * sh, w * sw, h * dh, w * dw, c),
            writeable=False,
        )

    def padded(self, images: int, x: np.ndarray) -> np.ndarray | None:
        """Room for what windows see of so many images like those of x, with zeros where that is outside of the images:
        None where they see no more than the images."""
        cut = _cut(self, x.shape[1:3])
        if not cut.reaches_outside:
            return None
        padded = np.empty((images, *cut.size, x.shape[3]), accumulation_dtype(x.dtype))
        rows, columns = cut.place
        padded[:, : rows.start] = padded[:, rows.stop :] = 0
        padded[:, :, : columns.start] = padded[:, :, columns.stop :] = 0
        return padded

    def copied_bytes(self, x: np.ndarray) -> int:
        """How much a copy of everything takes that the windows of x see."""
        each = self.count[0] * self.count[1] * self.kernel_size[0] * self.kernel_size[1] * x.shape[3]
        return len(x) * each * accumulation_dtype(x.dtype).itemsize

    def strips(self, width: int) -> Windows:
        """The windows that each see what `width` neighbours in a row see; width divides Q."""
        (p, q), (r, s), (stride_h, stride_w), (dilation_h, dilation_w) = (
            self.count, self.kernel_size, self.stride, self.dilation
        )
        wide = (width - 1) * stride_w + (s - 1) * dilation_w + 1
        return Windows((p, q // width), (r, wide), (stride_h, width * stride_w), (dilation_h, 1), self.start)


class Cut(NamedTuple):
    """The cells that any window reads of a map, which may reach outside of it: along height and width."""

    size: tuple[int, ...]
    seen: tuple[slice, ...]  # of the map's own cells
    place: tuple[slice, ...]  # where those lie in the cut
    reaches_outside: bool


@functools.lru_cache(1024)
def _cut(windows: Windows, hw: Pair) -> Cut:
    size, seen, place = [], [], []
    for axis in (0, 1):
        first = windows.start[axis]
        span = windows.dilation[axis] * (windows.kernel_size[axis] - 1) + 1
        last = max(first, first + (windows.count[axis] - 1) * windows.stride[axis] + span)
        start = min(max(first, 0), hw[axis])
        stop = max(start, min(last, hw[axis]))
        size.append(last - first)
        seen.append(slice(start, stop))
        place.append(slice(start - first, stop - first))
    outside = any(length > part.stop - part.start for length, part in zip(size, seen))
    return Cut(tuple(size), tuple(seen), tuple(place), outside)
