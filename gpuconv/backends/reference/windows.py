"""The windows of a convolution or a pool: which cells of a volume each output reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

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

    def of(self, x: np.ndarray) -> np.ndarray:
        """What the windows of x (N, H, W, C) see, (N, P, Q, R, S, C), in the accumulation dtype and without copying
        a cell twice: all windows are views of one cut of x. Read only, since windows overlap."""
        x = cut(x, *(self._reach(axis) for axis in (0, 1)))
        n, h, w, c = x.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            x,
            (x.shape[0], *self.count, *self.kernel_size, x.shape[3]),
            (n, h * sh, w * sw, h * dh, w * dw, c),
            writeable=False,
        )

    def _reach(self, axis: int) -> Pair:
        """The first cell that any window reads along an axis, and one past the last."""
        span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        first = self.start[axis]
        last_window = first + (self.count[axis] - 1) * self.stride[axis]
        return first, max(first, last_window + span)

    def rows(self, first: int, last: int) -> Windows:
        """The windows p in [first, last) alone."""
        (start_h, start_w), (_, q) = self.start, self.count
        return replace(self, count=(last - first, q), start=(start_h + first * self.stride[0], start_w))

    def strips(self, width: int) -> Windows:
        """The windows that each see what `width` neighbours in a row see; width divides Q."""
        (p, q), (r, s), (stride_h, stride_w), (dilation_h, dilation_w) = (
            self.count, self.kernel_size, self.stride, self.dilation
        )
        wide = (width - 1) * stride_w + (s - 1) * dilation_w + 1
        return Windows((p, q // width), (r, wide), (stride_h, width * stride_w), (dilation_h, 1), self.start)

    def blocks(self, images: int, cell_bytes: int, budget: int) -> Iterator[tuple[slice, slice, Windows]]:
        """Cut a batch into blocks whose copied windows take `budget` bytes at most (but always one row of windows):
        several images where they fit, else some rows of one. cell_bytes: of the C channels of one cell.

        Yields the block's images, its rows p, and its windows.
        """
        p, q = self.count
        row_bytes = q * self.kernel_size[0] * self.kernel_size[1] * cell_bytes
        height = min(p, max(1, budget // max(1, row_bytes)))
        depth = max(1, budget // max(1, row_bytes * p))
        for n in range(0, images, depth):
            for first in range(0, p, max(1, height)):
                last = min(first + height, p)
                yield slice(n, min(n + depth, images)), slice(first, last), self.rows(first, last)


def cut(x: np.ndarray, rows: Pair, columns: Pair) -> np.ndarray:
    """x[:, rows, columns] in the accumulation dtype, where rows and columns may reach outside and find zeros there."""
    (top, bottom), (left, right) = rows, columns
    n, h, w, c = x.shape
    inside = x[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if top >= 0 and left >= 0 and bottom <= h and right <= w:
        return widen(inside)
    padded = np.zeros((n, bottom - top, right - left, c), accumulation_dtype(x.dtype))
    above, before = max(-top, 0), max(-left, 0)
    padded[:, above : above + inside.shape[1], before : before + inside.shape[2]] = inside
    return padded
