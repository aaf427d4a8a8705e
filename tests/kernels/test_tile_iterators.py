"""The tile iterators of the tensor-core kernels (tile_iterator.cuh): their addresses and their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.algorithms import find
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops.conv_struct import fits_tap_table, packed
from gpuconv.backends.cuda.runtime import source
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.dtypes import as_dtype
from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv
from tests.kernels.agreement import assert_same_bits
from tests.kernels.convolutions import arguments, assert_right, directions, dtype_and_options

PAD = ((1, 1), (1, 1))
FEW = conv(2, 7, 9, 8, 8, (3, 3), padding=PAD)  # a tile spans four taps, in TF32 two
# A tile spans parts of several taps.
TWENTY_FOUR = conv(2, 9, 11, 24, 40, (3, 2), padding=((1, 1), (0, 2)), dilation=(2, 1))
ONE_TAP_A_TILE = conv(1, 8, 8, 64, 64, (3, 3), padding=PAD)
STRIDED = conv(2, 11, 9, 24, 16, (3, 4), stride=(2, 3), padding=((2, 0), (1, 3)), dilation=(1, 2))
ABOVE_THE_FILTER = conv(1, 9, 10, 16, 8, (2, 1), stride=(3, 2))  # phases without taps
SQUARE_7 = conv(1, 12, 13, 8, 16, 7, stride=2, padding=((3, 3), (3, 2)))
LONG = conv(1, 3, 40, 8, 8, (2, 29), padding=((1, 0), (14, 14)))  # as many rows and columns as a mask can have
ONE_BY_ONE = conv(3, 5, 7, 40, 24, (1, 1))
WITH_TAP_TABLE = [FEW, TWENTY_FOUR, ONE_TAP_A_TILE, STRIDED, ABOVE_THE_FILTER, SQUARE_7, LONG, ONE_BY_ONE]

# Too many taps, or too many rows and columns, for a table: every chunk address is computed.
WITHOUT_TAP_TABLE = [
    conv(1, 9, 24, 8, 8, (5, 20), padding=((2, 2), (9, 10))),
    conv(1, 10, 11, 8, 16, (9, 9), padding=((4, 4), (4, 4))),
    conv(1, 2, 40, 16, 8, (1, 31), stride=(1, 2), padding=((0, 0), (15, 15))),
]

# The first has 12.1e9 inputs and 3.0e9 outputs, the second 8.4e9 weights.
LARGE = conv(90, 1400, 2000, 48, 72, (3, 4), stride=(2, 3), padding=((1, 2), (3, 0)), dilation=(3, 2))
MANY_FILTERS = conv(1, 9, 9, 70_000, 40_000, (1, 3))

precisions = pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])


def operands(case: Conv2dProblem):
    """For each operand of each direction: its kernel in tiles.cu, the side of the output tile that it spans ("m" or
    "n"), its length along this side and along the depth, and the phase."""
    n, p, q, k = case.y_shape
    taps, pixels = int(np.prod(case.kernel_size)) * case.c, n * p * q
    yield "fprop_x", "m", pixels, taps, (0, 0)
    yield "fprop_w", "n", k, taps, (0, 0)
    yield "wgrad_dy", "m", k, pixels, (0, 0)
    yield "wgrad_x", "n", taps, pixels, (0, 0)
    rows = n * ceil_div(case.h, case.stride[0]) * ceil_div(case.w, case.stride[1])
    for phase in np.ndindex(case.stride):
        taps_met = [
            sum((at + pad[0] - tap * dilation) % stride == 0 for tap in range(size))
            for at, pad, size, stride, dilation in zip(
                phase, case.padding, case.kernel_size, case.stride, case.dilation
            )
        ]
        if taps_met[0] * taps_met[1]:
            yield "dgrad_dy", "m", rows, taps_met[0] * taps_met[1] * k, phase
            yield "dgrad_w", "n", case.c, taps_met[0] * taps_met[1] * k, phase


def tiles(algorithm: str, precision: str):
    """tiles.cu for a tile whose operands all move 16 bytes at a time."""
    wide = 4 if precision == "tf32" else 8
    defines = find(algorithm, precision).defines(precision)
    macros = dict(ACTIVATION="Identity", VECTOR_C=wide, VECTOR_K=wide)
    return load(Path(__file__).with_name("tiles.cu"), defines | macros)


def assert_same_addresses(
    device: str, case: Conv2dProblem, algorithm: str, precision: str, rng: np.random.Generator, count: int = 3
) -> int:
    """Checks that the iterators give the addresses of the matrices, for all operands of a case. An iterator starts
    at the beginning and near the end of the side and of the depth, and at `count` random positions of each. Returns the
    largest offset in the tensor."""
    tile, dtype = find(algorithm, precision), as_dtype(dtype_and_options(precision)[0])
    module, struct = tiles(algorithm, precision), packed(case, 1)
    tensor, tile_count, furthest = asarray(np.zeros(8, dtype), device), 5, -1
    for kernel, side, size, depth, phase in operands(case):
        block = tile.block_m if side == "m" else tile.block_n
        last = max(0, ceil_div(depth, tile.block_k) - 3) * tile.block_k
        firsts = {0, (size - 1) // block * block, *(int(i) // block * block for i in rng.integers(0, size, count))}
        begins = {0, last, *(int(i) // tile.block_k * tile.block_k for i in rng.integers(0, last + 1, count))}
        for first in firsts:
            for begin in begins:
                shape = (tile_count, block * 4 // tile.threads, tile.threads)
                offsets, expected = (asarray(np.full(shape, -2, np.int64), device) for _ in range(2))
                run = module.kernel(kernel)
                run(
                    1,
                    tile.threads,
                    offsets,
                    expected,
                    tensor,
                    struct,
                    *phase,
                    first,
                    begin,
                    tile_count,
                    shared=tile.smem_bytes,
                )
                inside = np.arange(tile_count) < ceil_div(depth - begin, tile.block_k)  # nothing is read past the end
                offsets, expected = to_numpy(offsets)[inside], to_numpy(expected)[inside]
                np.testing.assert_array_equal(offsets, expected, f"{kernel} {case} phase {phase} at {first}, {begin}")
                furthest = max(furthest, offsets.max())
    return furthest


@pytest.mark.parametrize("precision", ["float16", "tf32"])
@pytest.mark.parametrize("algorithm", ["mma-128x128", "mma-128x64", "mma-32x128"])
def test_iterators_give_the_addresses_of_their_matrices(device, rng, algorithm, precision):
    for case in WITH_TAP_TABLE:
        assert assert_same_addresses(device, case, algorithm, precision, rng) > 0


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_iterators_give_the_addresses_of_random_convolutions(device, rng, precision):
    for _ in range(60):
        r, s = (int(i) for i in rng.integers(1, 6, 2))
        n, h, w, c, k = (int(i) for i in rng.integers(1, [4, 14, 14, 8, 8]))
        stride, dilation = (tuple(int(i) for i in rng.integers(1, 4, 2)) for _ in range(2))
        padding = tuple(tuple(int(i) for i in rng.integers(0, 5, 2)) for _ in range(2))
        least = [(size - 1) * step + 1 for size, step in zip((r, s), dilation)]
        window = dict(stride=stride, padding=padding, dilation=dilation)
        case = conv(n, h + least[0], w + least[1], c * 8, k * 8, (r, s), **window)
        assert_same_addresses(device, case, "mma-64x64", precision, rng, count=1)


def test_iterators_give_addresses_past_two_to_the_31(device, rng):
    assert assert_same_addresses(device, LARGE, "mma-128x64", "float16", rng) > 2**33
    plain = conv(90, 1400, 2000, 48, 8, (3, 4), padding=LARGE.padding)
    assert assert_same_addresses(device, plain, "mma-64x64", "float16", rng) > 2**33
    assert assert_same_addresses(device, MANY_FILTERS, "mma-128x64", "float16", rng) > 2**32


@directions
@precisions
@pytest.mark.parametrize("case", WITH_TAP_TABLE)
def test_convolutions_with_iterators_agree_with_the_oracle(device, op, precision, case):
    dtype, tf32_option = dtype_and_options(precision)
    assert_right(op, device, case, dtype, algo="mma-64x64", **tf32_option)


@directions
@precisions
def test_filters_that_do_not_fit_the_tap_table_agree_with_the_oracle(device, op, precision):
    dtype, tf32_option = dtype_and_options(precision)
    for case in WITHOUT_TAP_TABLE:
        with launches.record_launches() as launched:
            assert_right(op, device, case, dtype, algo="mma-64x64", **tf32_option)
        assert launched[0].kernel.module.defines["TAP_TABLE"] == "0"


def test_filters_within_the_limits_of_the_tap_table_use_it():
    assert all(fits_tap_table(case, 1) for case in [*WITH_TAP_TABLE, LARGE, MANY_FILTERS])
    assert not any(fits_tap_table(case, 1) for case in WITHOUT_TAP_TABLE)
    # The outer taps are 2 * dilation * 40,000 * 4096 elements of x, or of dy, apart; the table holds 32-bit offsets.
    assert fits_tap_table(conv(1, 13, 40_000, 4096, 8, 3, padding=PAD, dilation=(6, 1)), 1)
    assert not fits_tap_table(conv(1, 15, 40_000, 4096, 8, 3, padding=PAD, dilation=(7, 1)), 1)
    assert not fits_tap_table(conv(1, 15, 40_000, 8, 4096, 3, padding=PAD, dilation=(7, 1)), 1)
    assert fits_tap_table(conv(1, 8, 9, 8, 8, (8, 9)), 1)
    assert not fits_tap_table(conv(1, 8, 10, 8, 8, (8, 10)), 1)
    assert "MOST_TAPS = 72 + " in source.resolve("tap_iterator.cuh").read_text()


@directions
def test_iterators_have_no_memory_errors_in_any_order(device, op):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    for case in (TWENTY_FOUR, STRIDED, WITHOUT_TAP_TABLE[2]):
        for seed in (3, 8):
            with emulator.configure(sanitize="checked", seed=seed):
                assert_right(op, device, case, "bfloat16", algo="mma-64x64")
    arrays, window = arguments(op, STRIDED, "bfloat16")
    assert_same_bits(op, device, *arrays, **window, algo="mma-128x64")
