"""How a matrix product is divided into tiles and splits: by its shape, waves of blocks, and the workspace limit."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.algorithms import serving
from gpuconv.backends.cuda.gemm.plan import LARGEST_WORKSPACE, plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.dtypes import as_dtype


def planned(m, n, k, batches=1, dtype="float32"):
    return plan(Product("conv2d_fprop", m, n, k, batches, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_plans_cover_the_product_within_the_workspace_limit(dtype):
    rng, dtype = np.random.default_rng(0), as_dtype(dtype)
    for _ in range(300):
        rows, columns, depth = (int(2 ** rng.uniform(0, high)) for high in (22, 12, 22))
        chosen = planned(rows, columns, depth, int(rng.integers(1, 5)), dtype)
        assert chosen.down * chosen.algorithm.block_m >= rows > (chosen.down - 1) * chosen.algorithm.block_m
        assert chosen.across * chosen.algorithm.block_n >= columns > (chosen.across - 1) * chosen.algorithm.block_n
        assert chosen.split_k * chosen.depth_per_split >= depth > (chosen.split_k - 1) * chosen.depth_per_split
        assert chosen.depth_per_split % (16 if dtype.itemsize == 2 else 8) == 0
        partials = chosen.split_k * rows * columns * (8 if dtype.itemsize == 8 else 4)
        assert chosen.split_k == 1 or partials <= LARGEST_WORKSPACE


def test_plans_follow_the_shape():
    vgg = planned(128 * 32 * 32, 64, 9 * 64)
    assert (vgg.algorithm.block_m, vgg.split_k) == (128, 1)  # many outputs: large tiles, no split-K
    filters = planned(64, 9 * 64, 128 * 32 * 32)
    assert filters.split_k > 8  # few outputs, a long depth
    few = planned(128 * 32 * 32, 10, 9 * 10).algorithm
    assert (few.block_m, few.block_n) == (64, 16)  # tiny VGG's ten filters: no tile of 32 columns
    tile = planned(1, 1, 1).algorithm
    assert tile.block_m * tile.block_n == min(a.block_m * a.block_n for a in serving("float32"))


@pytest.mark.parametrize(
    ("direction", "m", "n", "k", "algorithm", "split_k"),
    [
        # Tiles of 128 rows would be half empty; tiles of 64 columns would waste a sixth (216 of 256 are used).
        ("wgrad", 64, 9 * 24, 2000 * 31 * 31, "mma-64x32", 75),
        # 282 tiles, with 264 blocks in a wave: a second wave costs less than a reduction.
        ("fprop", 2000 * 3 * 3, 256, 9 * 256, "mma-128x128", 1),
        ("fprop", 128 * 8 * 8, 64, 9 * 64, "mma-64x64", 1),  # 128 small tiles are one wave without a reduction
        ("wgrad", 512, 9 * 512, 128 * 4 * 4, "mma-128x128", 2),  # 288 blocks; four splits would move twice the partials
    ],
    ids=["narrow-side", "two-waves", "one-wave", "few-splits"],
)
def test_plans_on_tensor_cores_weigh_waves_reductions_and_instructions(direction, m, n, k, algorithm, split_k):
    chosen = plan(Product(f"conv2d_{direction}", m, n, k, 1, as_dtype("bfloat16")))
    assert (chosen.algorithm.name, chosen.split_k) == (algorithm, split_k)
