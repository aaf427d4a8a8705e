"""How an implicit GEMM is cut up: tiles, splits of the depth, vector widths. What kernels/gemm.cuh is told.

The choice follows from the shape and the dtype alone, never from the device, so the bits of a result do not depend on
the machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.backends.cuda.device_array import empty, is_aligned
from gpuconv.backends.cuda.launch import THREADS, ceil_div, flat_grid
from gpuconv.backends.cuda.module import load
from gpuconv.dtypes import accumulation_dtype

LARGEST_WORKSPACE = 64 * 2**20  # bytes of partial sums
_ENOUGH_BLOCKS = 256  # about two for each multiprocessor of a large GPU
_SHORTEST_SPLIT = 256  # of the depth; less would be mostly reduction

DIVISOR = np.dtype([(name, np.uint32) for name in ("divisor", "multiplier", "shift")], align=True)
SCHEDULE = np.dtype([("across", DIVISOR), ("down", DIVISOR), ("depth_per_split", np.int32)], align=True)

# The names of kernels/activation.cuh
ACTIVATIONS = {
    None: "Identity", "relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu",
    "silu": "Silu",
}  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """BLOCK_M x BLOCK_N outputs a block, THREAD_M x THREAD_N of them a thread."""

    block_m: int
    block_n: int
    thread_m: int
    thread_n: int
    min_blocks: int

    @property
    def threads(self) -> int:
        return self.block_m // self.thread_m * (self.block_n // self.thread_n)

    @property
    def macros(self) -> dict[str, int]:
        return dict(
            BLOCK_M=self.block_m, BLOCK_N=self.block_n, THREAD_M=self.thread_m, THREAD_N=self.thread_n,
            MIN_BLOCKS=self.min_blocks,
        )  # fmt: skip


# Large tiles first: they read least for each multiply-add. Doubles take twice the registers.
TILES = (
    Tile(128, 64, 8, 8, 2), Tile(64, 64, 8, 4, 2), Tile(64, 32, 8, 4, 2), Tile(32, 32, 4, 4, 2)
)  # fmt: skip
TILES_OF_DOUBLES = (Tile(64, 64, 4, 4, 1), Tile(64, 32, 4, 4, 1), Tile(32, 32, 4, 4, 1))


def tiles(dtype: Any) -> tuple[Tile, ...]:
    """The tiles for a dtype, largest first."""
    return TILES_OF_DOUBLES if dtype == np.float64 else TILES


def divisor(d: int) -> tuple[int, int, int]:
    """`struct Divisor` for 1 <= d < 2^31: with 2^(l-1) < d <= 2^l, (d, ceil(2^(31+l) / d), l)."""
    shift = (d - 1).bit_length()
    return d, ceil_div(1 << (31 + shift), d), shift


@dataclass(frozen=True)
class Plan:
    """A product's tile, and how many blocks sum parts of its depth."""

    tile: Tile
    across: int
    down: int
    splits: int
    depth_per_split: int

    def schedule(self) -> Any:
        return np.array((divisor(self.across), divisor(self.down), self.depth_per_split), SCHEDULE)[()]


@functools.lru_cache(maxsize=1024)
def plan(rows: int, columns: int, depth: int, groups: int, dtype: Any) -> Plan:
    """The largest tile that leaves enough blocks, or else the one with most; then enough splits of a long depth."""
    known = tiles(dtype)
    fitting = [tile for tile in known if tile.block_n < 2 * columns or tile is known[-1]]

    def blocks(tile: Tile) -> int:
        return ceil_div(rows, tile.block_m) * ceil_div(columns, tile.block_n) * groups

    tile = next((tile for tile in fitting if blocks(tile) >= _ENOUGH_BLOCKS), None)
    if tile is None:  # few outputs: a long depth makes up for it in splits, a short one in small tiles
        tile = fitting[-1] if depth < 4 * _SHORTEST_SPLIT else fitting[len(fitting) // 2]
    block_k = 16 if dtype.itemsize == 2 else 8
    partial = rows * columns * groups * accumulation_dtype(dtype).itemsize
    splits = min(_ENOUGH_BLOCKS // max(1, blocks(tile)), depth // _SHORTEST_SPLIT, LARGEST_WORKSPACE // max(1, partial))
    per_split = ceil_div(ceil_div(depth, max(1, splits)), block_k) * block_k
    across, down = ceil_div(columns, tile.block_n), ceil_div(rows, tile.block_m)
    return Plan(tile, across, down, max(1, ceil_div(depth, max(1, per_split))), max(block_k, per_split))


def vector(count: int, dtype: Any, *arrays: Any) -> int:
    """How many of `count` neighbours move at once: 16 bytes of them where they divide and the arrays are aligned."""
    wide = 16 // dtype.itemsize
    return wide if count % wide == 0 and is_aligned(16, *arrays) else 1


def launch(
    file: str,
    kernel: str,
    chosen: Plan,
    groups: int,
    out: Any,
    inputs: tuple[Any, ...],
    struct: Any,
    macros: dict[str, Any],
    *,
    bias: Any = None,
    activation: str | None = None,
    accumulate: bool | None = None,
    columns: int = 1,
) -> None:
    """Launch a kernel(out, partials, inputs..., struct, schedule[, accumulate]), and the reduction of its splits.

    bias and activation go to whichever of the two writes the output; accumulate is None for kernels without it.
    columns: how many outputs share one set of biases.
    """
    dtype, whole = out.dtype, chosen.splits == 1
    partials = None if whole else empty((chosen.splits, out.size), accumulation_dtype(dtype), like=out)
    finish = {"DTYPE": dtype.name, "ACTIVATION": ACTIVATIONS[activation]}
    defines = finish | chosen.tile.macros | macros | ({} if whole else {"ACTIVATION": ACTIVATIONS[None]})
    flags = () if accumulate is None else (bool(accumulate) and whole,)
    run = load(file, defines).kernel(kernel)
    grid = (chosen.across * chosen.down * groups, chosen.splits)
    run(grid, chosen.tile.threads, out, partials, *inputs, struct, chosen.schedule(), *flags)
    if not whole:
        reduce = load("gemm_reduce.cu", finish).kernel("gemm_reduce_splits")
        reduce(flat_grid(out.size), THREADS, out, partials, bias, out.size, chosen.splits, columns, bool(accumulate))


def check_extent(what: str, size: int) -> None:
    """The kernels count pixels and taps in 32 bits; elements have 64."""
    if size >= 2**31 - 1024:
        raise ValueError(f"a convolution has fewer than 2**31 - 1024 {what}, received {size}: use a smaller batch")
