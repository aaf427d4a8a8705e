"""The tile and the shared memory of the kernels for few channels (kernels/conv2d_few_channels.cuh)."""

from __future__ import annotations

import functools
import math

from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem

PIXELS, FILTERS = 256, 64  # of a tile for few channels: its pixels, and the most filters that it can have
MOST_SMEM_BYTES = 96 * 1024  # the most shared memory of a block for few channels: every GPU since sm_80 has it


def patch_lines(problem: Conv2dProblem, pool: int) -> int:
    """An upper bound on the number of rows of x, with its padding, that a tile for few channels reads. If it reads
    several images, their rows are added up.

    pool: as in `Epilogue`. A tile has PIXELS pixels, counted before the pool. They fill PIXELS / pool**2 consecutive
    windows of the pool, each of which gives one pixel of y.
    """
    n, p, q, _ = problem.pooled_shape(pool)
    stride, dilation = problem.stride[0], problem.dilation[0]
    windows, reach = PIXELS // pool**2, (problem.r - 1) * dilation + 1

    def runs(size: int) -> int:
        """The most rows or images of y, of `size` pixels each, that a tile touches. A tile begins at a multiple of
        `windows`."""
        return min((size - math.gcd(size, windows) + windows - 1) // size + 1, ceil_div(n * p * q, size))

    if n * p * q == 0:
        return 0
    rows, images = runs(q), runs(p * q)  # of the pooled output
    return (rows * pool - 1) * stride + reach + (images - 1) * max(0, reach - stride)


@functools.lru_cache(maxsize=1024)
def few_channels_smem_bytes(problem: Conv2dProblem, pool: int, precision: str) -> int:
    """Bytes of shared memory of a block of `gpuconv.algorithms.FEW_CHANNELS`: the biases, a table of the taps, the
    filters, and twice the part of x that a tile's pixels read. 0 if these algorithms do not serve the problem, because
    it is not one of few channels (`Conv2dProblem.few_channels`) or the bytes would exceed `MOST_SMEM_BYTES`.
    """
    if not problem.few_channels:
        return 0
    (r, s), channels, q = problem.kernel_size, problem.c, problem.pooled_shape(pool)[2]
    itemsize = {"float64": 8, "float16": 2, "bfloat16": 2}.get(precision, 4)
    chunk, scalar = 16 // itemsize, precision == "float32"
    step = 1 if scalar else 2 * chunk
    depth = ceil_div(r * s * channels, step) * step
    filter_numbers = depth * (FILTERS + 8) if scalar else depth * FILTERS
    row_pixels = (q * pool - 1) * problem.stride[1] + (s - 1) * problem.dilation[1] + 1
    row_bytes = ceil_div(-problem.padding[1][0] * channels % chunk + row_pixels * channels, chunk) * 16
    biases, taps, filters = 4 * FILTERS, ceil_div(depth, 4) * 16, filter_numbers * itemsize
    found = biases + taps + filters + 2 * patch_lines(problem, pool) * row_bytes
    return found if found <= MOST_SMEM_BYTES else 0
