"""The wrappers in mma.cuh: products, conversions and loads of fragments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.backends.cpu.precision import round_tf32
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.dtypes import as_dtype
from tests.kernels.convolutions import dtype_and_options


def fragments(kernel, precision):
    """A kernel of fragments.cu."""
    dtype, _ = dtype_and_options(precision)
    return load(Path(__file__).with_name("fragments.cu"), {"DTYPE": dtype}).kernel(kernel)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32"])
def test_a_product_of_fragments_is_within_its_bound(device, rng, precision):
    dtype, depth = as_dtype(dtype_and_options(precision)[0]), 8 if precision == "tf32" else 16
    a, b = rng.standard_normal((16, depth)).astype(dtype), rng.standard_normal((depth, 8)).astype(dtype)
    before = rng.standard_normal((16, 8)).astype(np.float32)
    sums = asarray(before, device)
    fragments("product", precision)(1, 32, sums, asarray(a, device), asarray(b, device))
    a, b = (round_tf32(f) if precision == "tf32" else f.astype(np.float64) for f in (a, b))
    expected, magnitude = a.astype(np.float64) @ b + before, np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(before)
    assert (np.abs(to_numpy(sums) - expected) <= 2.0**-23 * (depth + 1) * magnitude).all()


def test_factors_are_rounded_to_tf32(device, rng):
    """Ties are rounded away from zero, and subnormal numbers toward zero. NaN and infinities do not change."""
    edges = [0, 1, 0x1FFF, 0x7FFFFF, 0x800000, 0x3F800FFF, 0x3F801000, 0x3F803000, 0x3FFFF000, 0x7F7FEFFF, 0x7F7FF000]
    specials = [0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    bits = np.uint32([*edges, *specials, *rng.integers(0, 1 << 31, 4096)])
    bits = np.concatenate([bits, bits | np.uint32(1 << 31)])
    result = asarray(bits, device)
    fragments("rounded_to_tf32", "tf32")(1, 32, result, np.int32(bits.size))
    subnormal = bits & 0x7F800000 == 0
    expected = np.where(subnormal, (bits & 0xFFFFE000).view(np.float32), round_tf32(bits.view(np.float32)))
    rounded = to_numpy(result).view(np.float32)
    np.testing.assert_array_equal(rounded, expected)
    np.testing.assert_array_equal(np.signbit(rounded[expected == 0]), np.signbit(expected[expected == 0]))


def test_matrices_are_loaded_directly_and_transposed(device):
    rows = np.arange(256, dtype=np.uint16).reshape(32, 8)
    direct, transposed = (asarray(np.zeros((32, 4, 2), np.uint16), device) for _ in range(2))
    fragments("matrices", "float16")(1, 32, direct, transposed, asarray(rows, device))
    lanes, matrices = np.arange(32), rows.reshape(4, 8, 8)
    for m in range(4):
        for i in range(2):
            row, column = lanes // 4, lanes % 4 * 2 + i
            np.testing.assert_array_equal(to_numpy(direct)[:, m, i], matrices[m, row, column])
            np.testing.assert_array_equal(to_numpy(transposed)[:, m, i], matrices[m, column, row])


def test_all_lanes_must_participate():
    sums = asarray(np.zeros(32, np.float32), "emulated")
    with pytest.raises(emulator.EmulatorError, match=r"takes all 32 lanes of a warp|divergent warp operation"):
        fragments("without_a_lane", "float16")(1, 32, sums)
