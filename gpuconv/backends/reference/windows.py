"""The windows of a convolution or a pool: which cells of a volume each output reads."""

from __future__ import annotations

from dataclasses import dataclass

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
        x = self._cut(x, padded)
        n, h, w, c = x.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            x,
            (x.shape[0], *self.count, *self.kernel_size, x.shape[3]),
            (n, h * sh, w * sw, h * dh, w * dw, c),
            writeable=False,
        )

    def padded(self, images: int, x: np.ndarray) -> np.ndarray | None:
        """Room for what windows see of so many images like those of x, zero around them: None where they see no more
        than the images."""
        (top, bottom), (left, right) = self._reach(0), self._reach(1)
        if min(top, left) >= 0 and bottom <= x.shape[1] and right <= x.shape[2]:
            return None
        return np.zeros((images, bottom - top, right - left, x.shape[3]), accumulation_dtype(x.dtype))

    def copied_bytes(self, x: np.ndarray) -> int:
        """How much a copy of everything takes that the windows of x see."""
        each = self.count[0] * self.count[1] * self.kernel_size[0] * self.kernel_size[1] * x.shape[3]
        return len(x) * each * accumulation_dtype(x.dtype).itemsize

    def _cut(self, x: np.ndarray, padded: np.ndarray | None) -> np.ndarray:
        """The cells that any window reads."""
        (top, bottom), (left, right) = self._reach(0), self._reach(1)
        inside = x[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if padded is None:
            return widen(inside)
        above, before = max(-top, 0), max(-left, 0)
        padded[: len(x), above : above + inside.shape[1], before : before + inside.shape[2]] = inside
        return padded[: len(x)]

    def _reach(self, axis: int) -> Pair:
        """The first cell that any window reads along an axis, and one past the last."""
        span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        first = self.start[axis]
        last_window = first + (self.count[axis] - 1) * self.stride[axis]
        return first, max(first, last_window + span)

    def strips(self, width: int) -> Windows:
        """The windows that each see what `width` neighbours in a row see; width divides Q."""
        (p, q), (r, s), (stride_h, stride_w), (dilation_h, dilation_w) = (
            self.count, self.kernel_size, self.stride, self.dilation
        )
        wide = (width - 1) * stride_w + (s - 1) * dilation_w + 1
        return Windows((p, q // width), (r, wide), (stride_h, width * stride_w), (dilation_h, 1), self.start)
