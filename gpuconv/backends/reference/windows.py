"""The windows of a convolution or a pool, P x Q windows of R x S cells. Cell (r, s) of window (p, q) reads

    padded[n, p * stride + r * dilation, q * stride + s * dilation, c]

which for all windows at once is one strided slice, a tap.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv.shapes import output_hw


class Windows:
    def __init__(self, hw, kernel_size, stride, padding, dilation=(1, 1), fit="floor"):
        self.hw, self.kernel_size, self.stride, self.padding, self.dilation = hw, kernel_size, stride, padding, dilation
        self.count = output_hw(hw, kernel_size, stride, padding, dilation, fit)  # (P, Q)

    def pad(self, x: np.ndarray) -> np.ndarray:
        """x (N, H, W, C) with zeros around it: its padding, and below and right enough for a last partial window."""
        ((top, bottom), (left, right)), (below, beside) = self.padding, np.multiply(self.dilation, self.kernel_size)
        return np.pad(x, ((0, 0), (top, bottom + below), (left, right + beside), (0, 0)))

    def crop(self, padded: np.ndarray) -> np.ndarray:
        """What `pad` was given, as a view."""
        ((top, _), (left, _)), (h, w) = self.padding, self.hw
        return padded[:, top : top + h, left : left + w]

    def taps(self) -> Iterator[tuple[int, int, Any]]:
        """(r, s) in row-major order, each with the slice of a padded map that it reads, (N, P, Q, C)."""
        (p, q), (stride_h, stride_w), (dilation_h, dilation_w) = self.count, self.stride, self.dilation
        for r, s in np.ndindex(*self.kernel_size):
            h, w = r * dilation_h, s * dilation_w
            yield r, s, np.s_[:, h : h + (p - 1) * stride_h + 1 : stride_h, w : w + (q - 1) * stride_w + 1 : stride_w]
