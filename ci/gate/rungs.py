"""One rung of the Hopper ladder. python -m ci.gate.rungs NAME --device cuda

k-major   products of one warpgroup with both operands K-major
mn-major  likewise with an operand, or both, MN-major
ring      a ring of stages between a producer and two consumers, by mbarriers
fprop, dgrad, wgrad   the algorithms that no GPU has run: proved, timed; what is wrong with a refuted one

Prints a line for each case, and where one fails what it takes to mend it. Status 0 if all pass, 1 if one fails, 4 if
there is nothing to run.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NOTHING = 4
KERNELS = Path(__file__).parents[2] / "tests" / "kernels"
TILE_ROWS = DEPTH = 64  # of a product of one warpgroup
SWIZZLES = {0: "no", 1: "128-byte", 2: "64-byte", 3: "32-byte"}
MAJORS = {0: "A and B K-major", 1: "A K-major, B MN-major", 2: "A MN-major, B K-major", 3: "A and B MN-major"}
SHOWN = 12  # lines that describe wrong values
HALVES = ("bfloat16", "float16")
DIRECTIONS = ("fprop", "dgrad", "wgrad")


def ranges(numbers) -> str:
    """ "0-3, 8" of 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in runs]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")


def what_is_wrong(expected: np.ndarray, found: np.ndarray) -> list[str]:
    """Wrong values as lines of text: their number, their rows and columns, and the first of them. Leading axes are
    rows."""
    wide, given = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (expected, found))
    wrong = (wide != given) & ~(np.isnan(wide) & np.isnan(given))
    rows, columns = np.nonzero(wrong)
    lines = [
        f"    {rows.size} of {wrong.size} values are wrong, {int(np.isnan(given).sum())} are NaN",
        f"    rows {ranges(set(rows))}",
        f"    columns {ranges(set(columns))}",
    ]
    first = list(zip(rows, columns))[:SHOWN]
    return lines + [f"    [{r}, {c}] is {given[r, c]:g}, expected {wide[r, c]:g}" for r, c in first]


# --- one warpgroup ------------------------------------------------------------------------------


def multiplied(device: str, dtype: str, columns: int, layout: tuple[int, int], a, b) -> np.ndarray:
    """a (64, 64) times b (columns, 64) transposed, by one warpgroup. layout: keys of `SWIZZLES` and `MAJORS`."""
    import gpuconv as gc

    run = _products_kernel(dtype, columns).kernel("product")
    sums = gc.asarray(np.zeros((TILE_ROWS, columns), np.float32), device)
    moved = [gc.asarray(np.asarray(each, gc.dtypes.as_dtype(dtype)), device) for each in (a, b)]
    run(1, 128, sums, *moved, *layout, 0, 0, shared=(TILE_ROWS + columns) * DEPTH * 2)
    return gc.to_numpy(sums)


def _products_kernel(dtype: str, columns: int) -> Any:
    from gpuconv.backends.cuda.runtime.kernel import load

    return load(KERNELS / "wgmma_products.cu", {"DTYPE": dtype, "COLUMNS": columns})


def widths(small: bool) -> tuple[int, ...]:
    """The columns of a warpgroup's product."""
    return (64,) if small else (64, 128, 192, 256)


def read_map(device: str, dtype: str, columns: int, layout: tuple[int, int]) -> list[str]:
    """The positions from which the GPU reads each number of both operands, as lines of text: found by products of the
    identity with numbers that encode their position. Two products per map, because 16-bit floats hold only small whole
    numbers exactly."""
    lines, identity = [], np.eye(DEPTH)
    for operand, rows in (("B", columns), ("A", TILE_ROWS)):
        if operand == "A" and columns < DEPTH:
            continue
        place = np.arange(rows * DEPTH).reshape(rows, DEPTH)
        digits = []
        for digit in (place // DEPTH, place % DEPTH):
            if operand == "B":
                digits.append(multiplied(device, dtype, columns, layout, identity, digit).T[:rows])
            else:
                other = np.zeros((columns, DEPTH))
                other[:DEPTH] = identity
                digits.append(multiplied(device, dtype, columns, layout, digit, other)[:, :DEPTH])
        moved = np.argwhere((digits[0] != place // DEPTH) | (digits[1] != place % DEPTH))
        lines.append(f"    {operand}: {len(moved)} of {place.size} numbers are read from another place")
        for row, depth in moved[:SHOWN]:
            seen = f"({digits[0][row, depth]:g}, {digits[1][row, depth]:g})"
            lines.append(f"      (row {row}, depth {depth}) is read where (row, depth) {seen} lies")
    return lines


def tiles(device: str, majors: tuple[int, ...], small: bool) -> int:
    rng, failed, count = np.random.default_rng(0), 0, 0
    for dtype in HALVES[:1] if small else HALVES:
        for columns in widths(small):
            for layout in [(swizzle, which) for which in majors for swizzle in (1, 2, 3, 0)]:
                if columns > 64 and layout[0] != 1:
                    continue  # 64 columns show all swizzles
                a, b = (rng.integers(-4, 5, (rows, DEPTH)).astype(np.float64) for rows in (TILE_ROWS, columns))
                _begin(f"{dtype} 64x{columns}, {MAJORS[layout[1]]}, {SWIZZLES[layout[0]]} swizzle")
                found, count = multiplied(device, dtype, columns, layout, a, b), count + 1
                right = np.array_equal(found, a @ b.T)
                print("PASS" if right else "FAIL", flush=True)
                if not right:
                    failed += 1
                    print(*what_is_wrong(a @ b.T, found), sep="\n", flush=True)
                    print(*read_map(device, dtype, columns, layout), sep="\n", flush=True)
    return _ended(failed, count, "products of a warpgroup")


def _ring_kernel() -> Any:
    from gpuconv.backends.cuda.runtime.kernel import load

    return load(KERNELS / "warpgroups.cu")


def ring(device: str, small: bool) -> int:
    import gpuconv as gc

    failed, sizes, size, blocks = 0, (1, 3) if small else (1, 2, 3, 4, 7, 10, 100, 1000), 512, 2
    for count in sizes:
        _begin(f"{count} tiles through a ring of 3 stages")
        x = np.random.default_rng(count).integers(-9, 10, (count, size)).astype(np.float32)
        y = gc.asarray(np.full((blocks * 2, size), np.nan, np.float32), device)
        _ring_kernel().kernel("correct")(blocks, 384, y, gc.asarray(x, device), count)
        found, expected = gc.to_numpy(y), np.broadcast_to(x.sum(0), (blocks * 2, size))
        right = np.array_equal(found, expected)
        print("PASS" if right else "FAIL", flush=True)
        if not right:
            failed += 1
            print(*what_is_wrong(expected, found), sep="\n", flush=True)
    return _ended(failed, len(sizes), "rings")


# --- convolutions -------------------------------------------------------------------------------


def direction(name: str, device: str, small: bool) -> int:
    """Every unproved algorithm of a direction, on growing problems."""
    from gpuconv.backends.cuda.gemm import tuner
    from gpuconv.backends.cuda.gemm.plan import unproved
    from gpuconv.backends.cuda.gemm.proofs import prove
    from gpuconv.backends.cuda.runtime.capability import capability_named

    place, failed, count, hung = tuner.place_named(device), 0, 0, set()
    for product in products(name, small):
        for each in unproved(product, capability_named(device)):
            what = f"{each.algorithm.name} {name} {product.problem} {product.dtype} {product.epilogue}"
            if each.algorithm.name in hung:  # it would take the time limit again
                print(f"SKIP {what}", flush=True)
                continue
            found, count = prove(product, each, place), count + 1
            failed += not found.proved
            hung |= {each.algorithm.name} if "did not answer" in found.reason else set()
            print(f"{'PASS' if found.proved else 'FAIL'} {what}")
            print(f"    {found}", flush=True)
            if found.proved:
                print(f"    {timed(product, each, device)}", flush=True)
            elif found.lasting and each.algorithm.name not in hung and "ended with" not in found.reason:
                print(*wrong_in(product, each, place), sep="\n", flush=True)
    if not count:
        print(f"no algorithm of {name} is to be proved")
        return NOTHING
    return _ended(failed, count, f"proofs of {name}")


def products(name: str, small: bool) -> Iterator[Any]:
    """The products of a direction, smallest problem first."""
    for problem in problems(small):
        for dtype in ("bfloat16", "float32") if small else HALVES:
            for finish in finishes(name, dtype, small):
                yield product_to_prove(name, problem, finish, dtype)


def product_to_prove(name: str, problem: Any, finish: Any, dtype: str) -> Any:
    from gpuconv.backends.cuda.ops.conv import product_of
    from gpuconv.backends.cuda.runtime.outputs import pack_width
    from gpuconv.dtypes import as_dtype

    packs = [pack_width(as_dtype(dtype), count=each) for each in (problem.c, problem.k)]
    return product_of(name, problem, finish, as_dtype(dtype), False, packs[0], packs[1])


def problems(small: bool) -> list[Any]:
    """Problems of growing size: one tile, several tiles, odd sizes and strides, several tiles for each block, and
    layers of VGG."""
    from gpuconv.verify.conv_problems import conv

    first = [conv(1, 8, 8, 64, 64, 1), conv(2, 8, 8, 64, 64, 3, padding=1)]
    if small:
        return first[1:]
    more = [conv(3, 9, 7, 64, 72, 3, stride=2, padding=1), conv(2, 16, 16, 24, 64, 3, padding=1)]
    # Several tiles for each block: of fprop and dgrad, then of wgrad.
    more += [conv(9, 64, 64, 8, 64, 1), conv(1, 8, 8, 512, 512, 3, padding=1)]
    sizes = ((32, 64, 64), (16, 128, 128), (8, 256, 256), (4, 512, 512))
    return [*first, *more, *(conv(128, side, side, c, k, 3, padding=1) for side, c, k in sizes)]


def finishes(name: str, dtype: str, small: bool) -> list[Any]:
    """The epilogues to prove: several for fprop in bfloat16, otherwise only the plain one, because each needs another
    compiled kernel for each tile."""
    from gpuconv.problems import PLAIN, Epilogue

    if name != "fprop" or dtype != "bfloat16" or small:
        return [PLAIN]
    return [PLAIN, Epilogue.of("relu", 1, True), Epilogue.of("relu", 2, True), Epilogue.of(None, 1, False, True)]


def timed(product, candidate, device: str) -> str:
    """The times of the candidate, and of the proved algorithm that the cost model chooses, as text."""
    from gpuconv.backends.cuda.gemm import tuner
    from gpuconv.backends.cuda.gemm.plan import plan
    from gpuconv.backends.cuda.gemm.proofs import trusting
    from gpuconv.backends.cuda.runtime.capability import capability_named
    from gpuconv.verify.proof import Form, Inputs, called

    gpu = tuner.gpu_named(device)
    if gpu is None:
        return "no times on the emulated device"
    lines = []
    for each in (candidate, plan(product, "auto", capability_named(device))):
        question = question_of(product, each, device)
        inputs = Inputs(question, "random")
        with trusting():
            call = functools.partial(called, question, each.algorithm.name, inputs, Form(), product.epilogue)
            call()
            seconds = min(gpu.seconds(call, 5) for _ in range(3)) / 5
        flops = 2.0 * product.m * product.n * product.k * product.batches
        lines.append(f"{each.algorithm.name} {1e6 * seconds:.1f} us, {flops / max(seconds, 1e-9) / 1e12:.0f} TFLOP/s")
    return "; ".join(lines)


def wrong_in(product, candidate, place) -> list[str]:
    """The candidate's results that differ from the proved algorithm's for whole numbers, as lines of text."""
    from gpuconv.backends.cuda.gemm.plan import plan
    from gpuconv.backends.cuda.gemm.proofs import trusting
    from gpuconv.backends.cuda.runtime.capability import capability_named
    from gpuconv.verify.proof import Form, Inputs, run

    question = question_of(product, candidate, place.device)
    inputs, proved = Inputs(question, "whole"), plan(product, "auto", capability_named(place.device))
    with trusting():
        expected = run(question, proved.algorithm.name, inputs, Form(), product.epilogue)
        found = run(question, candidate.algorithm.name, inputs, Form(), product.epilogue)
    lines = [f"    tile {candidate.algorithm.block_m} x {candidate.algorithm.block_n}, split {candidate.split_k}"]
    for name in expected:
        if name != "moments" and expected[name].tobytes() != found[name].tobytes():
            lines += [f"    {name}, of shape {expected[name].shape}:", *what_is_wrong(expected[name], found[name])]
    return lines


def question_of(product, candidate, device: str):
    from gpuconv.verify.proof import Question

    way = product.kernel.removeprefix("conv2d_")
    packs = (product.macros["VECTOR_C"], product.macros["VECTOR_K"])
    return Question(
        device, way, product.problem, product.epilogue, product.dtype, product.tf32, packs, candidate.algorithm.name, ""
    )


# --- all of them --------------------------------------------------------------------------------


def modules(capability: int = 90) -> Iterator[Any]:
    """The kernels of all rungs on a GPU of this compute capability, to be compiled ahead: of the algorithms to prove,
    and of the proved ones, which a proof also runs without activation and moments, for its bounds."""
    from gpuconv.backends.cuda.gemm.compiled import kernel_of
    from gpuconv.backends.cuda.gemm.plan import plan, unproved
    from gpuconv.problems import PLAIN, Epilogue

    yield from (_products_kernel(dtype, columns) for dtype in HALVES for columns in widths(False))
    yield _ring_kernel()
    for name in DIRECTIONS:
        for each in products(name, False):
            for candidate in unproved(each, capability):
                yield kernel_of(each, candidate).module
            bare = Epilogue.of(None, 2, masked=True) if each.epilogue.pool == 2 else PLAIN
            for of in (each, product_to_prove(name, each.problem, bare, each.dtype.name)):
                yield kernel_of(of, plan(each, "auto", capability)).module


def _begin(what: str) -> None:
    """Print what runs next, so that the last line names it if it hangs."""
    print(f"{what}: ", end="", flush=True)


def _ended(failed: int, count: int, what: str) -> int:
    print(f"{failed} of {count} {what} fail" if failed else f"all {count} {what} pass")
    return 1 if failed else 0


RUNGS = {
    "k-major": lambda device, small: tiles(device, (0,), small),
    "mn-major": lambda device, small: tiles(device, (1, 2, 3), small),
    "ring": ring,
} | {name: functools.partial(direction, name) for name in DIRECTIONS}


def main() -> int:
    parser = argparse.ArgumentParser("python -m ci.gate.rungs", description=__doc__)
    parser.add_argument("name", choices=RUNGS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="to rehearse")
    options = parser.parse_args()
    try:
        return RUNGS[options.name](options.device, options.small)
    except KeyboardInterrupt:  # the time is up; a traceback would hide the last line
        return 130


if __name__ == "__main__":
    sys.exit(main())
