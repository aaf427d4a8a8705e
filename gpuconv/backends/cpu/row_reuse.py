"""A convolution as one with filters of a single row.

What the windows see of one row of a map, a line, is copied once, not once for each row of taps, and multiplied by the
taps of all R rows: by R * K filters that are one row high. Of the R sums that a line so gives for each of the K, each
belongs to another output row, or to none where that would lie outside. So R times less is copied, for R times as many
columns of sums to be added; which pays where filters are few beside the channels, and nearly always where they are as
many, since a product of more columns is also a faster one.
"""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cpu.block_gemm import Matrix
from gpuconv.backends.cpu.im2col import Windows


def one_row_filters(filters: np.ndarray) -> np.ndarray:
    """(1, R, S, C, K) -> (1, 1, S, C, R * K), copied in the order of their bytes, which is many times faster."""
    _, r, s, c, k = filters.shape
    if filters.strides[4] > filters.strides[3]:
        return filters[0].transpose(0, 3, 1, 2).reshape(r * k, s, c).transpose(1, 2, 0)[None, None]
    return filters.transpose(0, 2, 3, 1, 4).reshape(1, 1, s, c, r * k)


class Lines(Matrix):
    """The products for blocks of whole maps (H, W), of what is seen by `windows.lines(H)`."""

    def __init__(self, windows: Windows, height: int, bias: np.ndarray | None) -> None:
        super().__init__()
        self.bias = 0 if bias is None else bias
        self.rows = [windows.through(r, height) for r in range(windows.kernel_size[0])]
        self.wide: np.ndarray | None = None

    def multiply(self, seen: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        if self.wide is None:  # the first block is the largest
            self.wide = np.empty((*seen.shape[:3], weights.shape[2]), weights.dtype)
        wide = self.wide[: len(seen)]
        super().multiply(seen, weights, wide)
        sums = wide.reshape(*wide.shape[:3], len(self.rows), y.shape[3])
        p, h = self.rows[0]
        y[:, : p.start] = y[:, p.stop :] = self.bias
        np.add(sums[:, h, :, 0], self.bias, out=y[:, p])
        for r, (p, h) in enumerate(self.rows[1:], 1):
            y[:, p] += sums[:, h, :, r]
