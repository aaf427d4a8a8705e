"""A convolution that copies each row of a map once.

The windows of one row of a map are copied once, not once for each row of taps, and multiplied by all R rows of taps, as
if by R * K filters of height one. This gives R sums for each of the K filters; each sum belongs to a different output
row, or to none if that row would lie outside. So R times less is copied, and R times as many sums are added. This is
faster for few filters per channel, also because a product with more columns is faster.
"""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu.block_gemm import Matrix
from gpuconv.backends.cpu.im2col import Windows


def one_row_filters(filters: np.ndarray) -> np.ndarray:
    """(1, R, S, C, K) -> (1, 1, S, C, R * K), copied in memory order, which is many times faster."""
    _, r, s, c, k = filters.shape
    if filters.strides[4] > filters.strides[3]:
        return filters[0].transpose(0, 3, 1, 2).reshape(r * k, s, c).transpose(1, 2, 0)[None, None]
    return filters.transpose(0, 2, 3, 1, 4).reshape(1, 1, s, c, r * k)


class RowReuse(Matrix):
    """The products for blocks of whole maps (H, W), given the view of `windows.by_row(H)`."""

    def __init__(self, windows: Windows, height: int, bias: np.ndarray | None) -> None:
        super().__init__()
        self.bias = 0 if bias is None else bias
        # For each row of taps, the output rows that it contributes to, and the rows of the map that they read.
        self.rows = [windows.rows_through(r, height) for r in range(windows.kernel_size[0])]
        self.wide: np.ndarray | None = None

    def multiply(self, view: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        if self.wide is None:  # the first block is the largest
            self.wide = np.empty((*view.shape[:3], weights.shape[2]), weights.dtype)
        wide = self.wide[: len(view)]
        super().multiply(view, weights, wide)
        sums = wide.reshape(*wide.shape[:3], len(self.rows), y.shape[3])
        p, h = self.rows[0]
        y[:, : p.start] = y[:, p.stop :] = self.bias
        np.add(sums[:, h, :, 0], self.bias, out=y[:, p])
        for r, (p, h) in enumerate(self.rows[1:], 1):
            y[:, p] += sums[:, h, :, r]
