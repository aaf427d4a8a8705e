"""Filling arrays in device memory with Philox numbers: launchers of kernels/random_fill.cu."""

from __future__ import annotations

import math
from typing import Any

from gpuconv.backends.cuda.launch import THREADS, ceil_div, flat_grid, write_to
from gpuconv.backends.cuda.module import load

__all__ = ["random_normal", "random_permutation", "random_uniform"]


def _fill(kernel: str, y: Any, first: float, second: float, place: tuple[int, ...]) -> Any:
    def write(target: Any) -> None:
        run = load("random_fill.cu", {"DTYPE": y.dtype.name}).kernel(kernel)
        run(flat_grid(ceil_div(target.size, 4)), THREADS, target, target.size, first, second, *place)

    return write_to(y, y.shape, y.dtype, y, write)


def random_uniform(
    y: Any, *, low: float = 0.0, high: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> Any:
    return _fill("random_uniform", y, low, high - low, (seed, stream, substream, offset))


def random_normal(
    y: Any, *, mean: float = 0.0, std: float = 1.0, seed: int, stream: int = 0, substream: int = 0, offset: int = 0
) -> Any:
    return _fill("random_normal", y, mean, std, (seed, stream, substream, offset))


def random_permutation(order: Any, *, seed: int, epoch: int = 0, stream: int = 1) -> Any:
    n = order.shape[0]
    a = math.isqrt(max(n - 1, 0)) + 1  # the near-square a * b that holds n, as in gpuconv/random.py

    def write(target: Any) -> None:
        run = load("random_fill.cu", {"DTYPE": "float32"}).kernel("random_permutation")
        run(flat_grid(n), THREADS, target, n, a, ceil_div(n, a), seed, stream, epoch)

    return write_to(order, order.shape, order.dtype, order, write)
