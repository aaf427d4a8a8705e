"""Fills arrays in device memory with Philox numbers: launchers of kernels/random_fill.cu."""

from __future__ import annotations

import math

from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import buffer, store
from gpuconv.integers import ceil_div
from gpuconv.types import ArrayT


def _fill(kernel: str, y: ArrayT, first: float, second: float, philox: tuple[int, ...]) -> ArrayT:
    """Launch a kernel that fills y. first, second: the lower bound and the range, or the mean and the deviation."""
    target = buffer(y, y.shape, y.dtype, like=y)
    run = load("random_fill.cu", {"DTYPE": y.dtype}).kernel(kernel)
    run(flat_grid(ceil_div(target.size, 4)), THREADS, target, target.size, first, second, *philox)
    return store(target, y)


def random_uniform(
    y: ArrayT, *, low: float, high: float, seed: int, stream: int, substream: int, offset: int
) -> ArrayT:
    return _fill("random_uniform", y, low, high - low, (seed, stream, substream, offset))


def random_normal(y: ArrayT, *, mean: float, std: float, seed: int, stream: int, substream: int, offset: int) -> ArrayT:
    return _fill("random_normal", y, mean, std, (seed, stream, substream, offset))


def random_permutation(order: ArrayT, *, seed: int, epoch: int, stream: int) -> ArrayT:
    n = order.shape[0]
    a = math.isqrt(max(n - 1, 0)) + 1  # a * b >= n, and a is close to b, as in gpuconv/random.py
    target = buffer(order, order.shape, order.dtype, like=order)
    run = load("random_fill.cu", {"DTYPE": "float32"}).kernel("random_permutation")
    run(flat_grid(n), THREADS, target, n, a, ceil_div(n, a), seed, stream, epoch)
    return store(target, order)
