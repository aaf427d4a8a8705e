"""Products of one warpgroup: every layout of both operands against NumPy's product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import gpuconv as gc
from ci.gate.hopper_kernels.printing import print_case, print_comparison, print_summary
from ci.gate.hopper_kernels.wrong_values import SHOWN
from gpuconv.backends.cuda.runtime.kernel import Module, load

TEST_KERNELS = Path(__file__).parents[3] / "tests" / "kernels"
TILE_ROWS = DEPTH = 64  # of a product of one warpgroup
SWIZZLES = {0: "no", 1: "128-byte", 2: "64-byte", 3: "32-byte"}
MAJORS = {0: "A and B K-major", 1: "A K-major, B MN-major", 2: "A MN-major, B K-major", 3: "A and B MN-major"}
HALVES = ("bfloat16", "float16")


def check(device: str, majors: tuple[int, ...], small: bool) -> int:
    rng, failed, count = np.random.default_rng(0), 0, 0
    for dtype in HALVES[:1] if small else HALVES:
        for columns in widths(small):
            for layout in [(swizzle, which) for which in majors for swizzle in (1, 2, 3, 0)]:
                if columns > 64 and layout[0] != 1:
                    continue  # products of up to 64 columns test the other swizzles
                a, b = (rng.integers(-4, 5, (rows, DEPTH)).astype(np.float64) for rows in (TILE_ROWS, columns))
                print_case(f"{dtype} 64x{columns}, {MAJORS[layout[1]]}, {SWIZZLES[layout[0]]} swizzle")
                found, count = multiply_on_gpu(device, dtype, columns, layout, a, b), count + 1
                if not print_comparison(a @ b.T, found):
                    failed += 1
                    print(*read_map(device, dtype, columns, layout), sep="\n", flush=True)
    return print_summary(failed, count, "products of a warpgroup")


def multiply_on_gpu(device: str, dtype: str, columns: int, layout: tuple[int, int], a, b) -> np.ndarray:
    """a (64, 64) times b (columns, 64) transposed, by one warpgroup. layout: keys of `SWIZZLES` and `MAJORS`."""
    run = _module(dtype, columns).kernel("product")
    sums = gc.asarray(np.zeros((TILE_ROWS, columns), np.float32), device)
    moved = [gc.asarray(np.asarray(each, gc.dtypes.as_dtype(dtype)), device) for each in (a, b)]
    run(1, 128, sums, *moved, *layout, 0, 0, shared=(TILE_ROWS + columns) * DEPTH * 2)
    return gc.to_numpy(sums)


def _module(dtype: str, columns: int) -> Module:
    return load(TEST_KERNELS / "wgmma_products.cu", {"DTYPE": dtype, "COLUMNS": columns})


def modules() -> Iterator[Module]:
    """The kernels of the check."""
    return (_module(dtype, columns) for dtype in HALVES for columns in widths(False))


def widths(small: bool) -> tuple[int, ...]:
    """The columns of a warpgroup's product."""
    return (64,) if small else (64, 128, 192, 256)


def read_map(device: str, dtype: str, columns: int, layout: tuple[int, int]) -> list[str]:
    """How many numbers of each operand the GPU reads from another position than expected, and from where it reads the
    first of them, as lines of text. The positions are found by products of the identity with numbers that encode them.
    Each operand takes two products, one for the rows and one for the depths, because 16-bit floats hold only small
    whole numbers exactly."""
    lines, identity = [], np.eye(DEPTH)
    for operand, rows in (("B", columns), ("A", TILE_ROWS)):
        if operand == "A" and columns < DEPTH:
            continue
        place = np.arange(rows * DEPTH).reshape(rows, DEPTH)
        digits = []
        for digit in (place // DEPTH, place % DEPTH):
            if operand == "B":
                digits.append(multiply_on_gpu(device, dtype, columns, layout, identity, digit).T[:rows])
            else:
                other = np.zeros((columns, DEPTH))
                other[:DEPTH] = identity
                digits.append(multiply_on_gpu(device, dtype, columns, layout, digit, other)[:, :DEPTH])
        moved = np.argwhere((digits[0] != place // DEPTH) | (digits[1] != place % DEPTH))
        lines.append(f"    {operand}: {len(moved)} of {place.size} numbers are read from another place")
        for row, depth in moved[:SHOWN]:
            seen = f"({digits[0][row, depth]:g}, {digits[1][row, depth]:g})"
            lines.append(f"      (row {row}, depth {depth}) is read where (row, depth) {seen} lies")
    return lines
