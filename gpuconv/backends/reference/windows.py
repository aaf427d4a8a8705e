"""The windows of a convolution or a pool, P x Q windows of R x S cells. Cell (r, s) of window (p, q) reads

    padded[n, p * stride + r * dilation, q * stride + s * dilation, c]

The cells (r, s) of all windows together are one strided slice of `padded`, called a tap.
"""

from collections.abc import Iterator

import numpy as np

from gpuconv.problems import Conv2dProblem, Pool2dProblem


class Windows:
    def __init__(self, problem: Conv2dProblem | Pool2dProblem):
        self.problem, self.hw, self.count = problem, (problem.h, problem.w), (problem.p, problem.q)

    def pad(self, x: np.ndarray) -> np.ndarray:
        """x (N, H, W, C) padded with zeros: by the padding, and by more below and to the right for partial windows."""
        (top, bottom), (left, right) = self.problem.padding
        more_below, more_right = np.multiply(self.problem.dilation, self.problem.kernel_size)
        return np.pad(x, ((0, 0), (top, bottom + more_below), (left, right + more_right), (0, 0)))

    def crop(self, padded: np.ndarray) -> np.ndarray:
        """The part of a padded map inside the padding, as a view: the inverse of `pad`."""
        ((top, _), (left, _)), (h, w) = self.problem.padding, self.hw
        return padded[:, top : top + h, left : left + w]

    def taps(self) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        """(r, s) in row-major order, each with the index of the slice (N, P, Q, C) of a padded map that it reads."""
        (stride_h, stride_w), (dilation_h, dilation_w) = self.problem.stride, self.problem.dilation
        p, q = self.count
        for r, s in np.ndindex(*self.problem.kernel_size):
            h, w = r * dilation_h, s * dilation_w
            yield r, s, np.s_[:, h : h + (p - 1) * stride_h + 1 : stride_h, w : w + (q - 1) * stride_w + 1 : stride_w]
