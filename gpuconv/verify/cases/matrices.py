"""Sizes of matrices, for the cases of linear layers, losses and batch normalization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# (rows, input features, output features)
MATRICES: dict[str, list[tuple[int, ...]]] = {
    "tiny": [(1, 1, 1), (2, 3, 1), (2, 1, 4)],
    "odd": [(5, 7, 3), (17, 33, 65), (129, 3, 11)],
    "real": [(8, 3072, 10), (16, 512, 10), (32, 100, 1000)],
}


def matrix_sizes(count: int, rng: np.random.Generator) -> Iterator[tuple[str, int, int, int, int]]:
    """Yields (tier, index in the tier, rows, input features, output features). count: the number of random matrices."""
    drawn = [tuple(int(v) for v in rng.integers(2, 70, 3)) for _ in range(count)]
    for tier, sizes in (MATRICES | {"random": drawn}).items():
        for index, (n, c, k) in enumerate(sizes):
            yield tier, index, n, c, k
