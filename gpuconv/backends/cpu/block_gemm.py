"""Two ways to multiply a block of windows by weights, and to compute the weights' gradient. Both take

view                the im2col view of the block, (N, P, Q, R, S, C)
weights, gradient   (G, R * S * C / G, K / G); a bias is one more row, whose input is 1
y, dy               (N, P, Q, K); `multiply` writes y, `add_gradient` reads dy, the gradient of y
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.precision import sum_rows


class Matrix:
    """For each group a matrix with a row for each window (n, p, q), a column for each (r, s, c), and with a bias a
    column of ones. The windows are copied into one buffer, which the first and largest block allocates. Only the
    windows of 1 x 1 filters without a bias are reshaped instead, which copies nothing at stride 1."""

    def __init__(self) -> None:
        self.buffer: np.ndarray | None = None
        self.view: np.ndarray | None = None  # the block that the buffer holds

    def multiply(self, view: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        np.matmul(self._matrices(view, weights), weights, out=_by_group(y, weights))

    def add_gradient(self, view: np.ndarray, dy: np.ndarray, gradient: np.ndarray) -> None:
        view_by_column = self._matrices(view, gradient).transpose(0, 2, 1)
        gradient += np.matmul(view_by_column, _by_group(dy, gradient), out=np.empty_like(gradient))

    def _matrices(self, view: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The block as matrices (groups, pixels, columns), with a last column of ones if `weights` have a bias row."""
        (n, p, q, r, s, channels), (groups, columns, _) = view.shape, weights.shape
        height, width = n * p * q, r * s * channels // groups
        by_group = view.reshape(n, p, q, r, s, groups, channels // groups).transpose(5, 0, 1, 2, 3, 4, 6)
        if r == s == 1 and width == columns:
            return by_group.reshape(groups, height, width)
        if self.buffer is None:
            self.buffer = np.empty((groups, height, columns), view.dtype)
            self.buffer[:, :, width:] = 1
        matrices = self.buffer[:, :height]
        if self.view is not view:  # not copied again for a second product of the same block
            matrices[:, :, :width].reshape(by_group.shape, copy=False)[...] = by_group
            self.view = view
        return matrices


def _by_group(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, P, Q, K) -> (G, N * P * Q, K / G)."""
    groups, _, k = weights.shape
    return y.reshape(math.prod(y.shape[:3]), groups, k).transpose(1, 0, 2)


class Taps:
    """For depthwise filters: filter k reads only channel k, so each tap multiplies the whole shifted volume."""

    @staticmethod
    def multiply(view: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        taps = list(np.ndindex(view.shape[3:5]))
        y[...] = weights[:, len(taps) :, 0].sum(1)  # the bias, if any
        for (r, s), weight in zip(taps, weights[:, :, 0].T):
            y += view[:, :, :, r, s] * weight

    @staticmethod
    def add_gradient(view: np.ndarray, dy: np.ndarray, gradient: np.ndarray) -> None:
        taps = list(np.ndindex(view.shape[3:5]))
        for row, (r, s) in enumerate(taps):
            gradient[:, row, 0] += sum_rows(dy * view[:, :, :, r, s])
        for row in range(len(taps), gradient.shape[1]):  # the bias's gradient, if any
            gradient[:, row, 0] += sum_rows(dy)
