"""How a block of windows is multiplied by weights, and how it gives a gradient to such weights. Both forms take

seen       what the windows see, (N, P, Q, R, S, C)
weights    (G, R * S * C / G, K / G), and the gradient to them: one row more where there is a bias, whose input is 1
y, beside  (N, P, Q, K), y to be written
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cpu.precision import sum_rows


class Matrix:
    """For each group a matrix with a row for each window (n, p, q) and a column for each (r, s, c), and a column of
    ones where one more is wanted. The windows are copied into one room, which the first, largest block makes, unless
    they lie in memory like that already, as those of 1 x 1 filters may."""

    def __init__(self) -> None:
        self.room: np.ndarray | None = None
        self.seen: np.ndarray | None = None  # what it holds now

    def multiply(self, seen: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        np.matmul(self._of(seen, weights), weights, out=_by_group(y, weights))

    def add_gradient(self, seen: np.ndarray, beside: np.ndarray, gradient: np.ndarray) -> None:
        seen_by_column = self._of(seen, gradient).transpose(0, 2, 1)
        gradient += np.matmul(seen_by_column, _by_group(beside, gradient), out=np.empty_like(gradient))

    def _of(self, seen: np.ndarray, weights: np.ndarray) -> np.ndarray:
        (n, p, q, r, s, channels), (groups, columns, _) = seen.shape, weights.shape
        height, width = n * p * q, r * s * channels // groups
        by_group = seen.reshape(n, p, q, r, s, groups, channels // groups).transpose(5, 0, 1, 2, 3, 4, 6)
        if r == s == 1 and width == columns:
            return by_group.reshape(groups, height, width)
        if self.room is None:
            self.room = np.empty((groups, height, columns), seen.dtype)
            self.room[:, :, width:] = 1
        matrices = self.room[:, :height]
        if self.seen is not seen:  # a second product of one block finds it here
            matrices[:, :, :width].reshape(by_group.shape, copy=False)[...] = by_group
            self.seen = seen
        return matrices


def _by_group(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, P, Q, K) -> (G, N * P * Q, K / G)."""
    groups, _, k = weights.shape
    return y.reshape(math.prod(y.shape[:3]), groups, k).transpose(1, 0, 2)


class Taps:
    """Depthwise: each filter reads the channel of its own number, so a tap scales the whole shifted volume."""

    @staticmethod
    def multiply(seen: np.ndarray, weights: np.ndarray, y: np.ndarray) -> None:
        taps = list(np.ndindex(seen.shape[3:5]))
        y[...] = weights[:, len(taps) :, 0].sum(1)  # the bias, if any
        for (r, s), weight in zip(taps, weights[:, :, 0].T):
            y += seen[:, :, :, r, s] * weight

    @staticmethod
    def add_gradient(seen: np.ndarray, beside: np.ndarray, gradient: np.ndarray) -> None:
        taps = list(np.ndindex(seen.shape[3:5]))
        for row, (r, s) in enumerate(taps):
            gradient[:, row, 0] += sum_rows(beside * seen[:, :, :, r, s])
        for row in range(len(taps), gradient.shape[1]):  # the bias's, if any
            gradient[:, row, 0] += sum_rows(beside)
