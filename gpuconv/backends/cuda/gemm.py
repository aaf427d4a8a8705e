"""How an implicit GEMM is computed: the algorithm, splits of the depth, vector widths. What kernels/gemm.cuh is told.

The splits follow from the shape and the algorithm alone, so an algorithm's bits do not depend on the machine. "auto" is
what a cost model makes of the shape and the arithmetic, the same everywhere; on a GPU it is what `tuning` measured
there, unless that is switched off, and the choice, not its bits, may differ from machine to machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.algorithms import AUTO, FIRST, Algorithm, arithmetic_of, find, serving
from gpuconv.backends.cuda import tuning
from gpuconv.backends.cuda.device_array import NEWEST, capability_named, capability_of, empty, is_aligned
from gpuconv.backends.cuda.launch import ceil_div
from gpuconv.backends.cuda.module import load
from gpuconv.dtypes import accumulation_dtype

LARGEST_WORKSPACE = 64 * 2**20  # bytes of partial sums

# The machine that a product is cut up for, whatever it runs on: an H200. Costs: multiply-adds of one multiprocessor.
_MULTIPROCESSORS = 132
_BUSY_THREADS = 256  # that keep one multiprocessor's arithmetic busy
_START_DEPTH = 32  # what a block costs beside its multiply-adds, as so much more depth
_REDUCE_LAUNCH, _REDUCE_SPLIT, _REDUCE_ELEMENT = 300_000, 2_000, 26  # the second launch, awaiting a split, moving a sum
REDUCE_OUTPUTS, _REDUCE_LANES, _REDUCE_GROUPS = 1024, 256, 4  # of a block of gemm_reduce.cu
_REDUCE_SHARE = 8  # splits that one group adds up before there is another
_SHORTEST_SPLIT = 128  # of the depth
_LARGEST_GRID_Y = 65535

DIVISOR = np.dtype([(name, np.uint32) for name in ("divisor", "multiplier", "shift")], align=True)
SCHEDULE = np.dtype([("across", DIVISOR), ("down", DIVISOR), ("depth_per_split", np.int32)], align=True)

# The names of kernels/activation.cuh
ACTIVATIONS = {
    None: "Identity", "relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu",
    "silu": "Silu",
}  # fmt: skip


def divisor(d: int) -> tuple[int, int, int]:
    """`struct Divisor` for 1 <= d < 2^31: with 2^(l-1) < d <= 2^l, (d, ceil(2^(31+l) / d), l)."""
    shift = (d - 1).bit_length()
    return d, ceil_div(1 << (31 + shift), d), shift


@dataclass(frozen=True)
class Plan:
    """A product's algorithm, how many tiles lie across, down and over all groups, and how many blocks share a depth.

    cost: the estimated time, in multiply-adds of one multiprocessor. shared: bytes of dynamic shared memory a block.
    blocks: that the tiles are dealt out to.
    """

    algorithm: Algorithm
    tf32: bool
    across: int
    down: int
    tiles: int
    splits: int
    depth_per_split: int
    cost: float
    shared: int
    blocks: int

    @functools.cached_property
    def schedule(self) -> Any:
        """The kernels' `struct Schedule`."""
        return np.array((divisor(self.across), divisor(self.down), self.depth_per_split), SCHEDULE)[()]


@functools.lru_cache(maxsize=1024)
def plan(
    rows: int, columns: int, depth: int, groups: int, dtype: Any, algo: str = AUTO, tf32: bool = False,
    whole: bool = False, first: int = 0, capability: int = NEWEST,
) -> Plan:  # fmt: skip
    """The algorithm, of all that serve the arithmetic or the one named, and the splits with the least estimated time;
    of several, the first that is listed, with fewest splits. whole: the depth must not be split. first: the bytes that
    a first layer's algorithms take of shared memory; 0: it is none. capability: the GPU's.

    Raises ValueError for a named algorithm that this GPU has not the instructions for.
    """
    arithmetic, special = arithmetic_of(dtype, tf32), first > 0
    able = _able(arithmetic, special, capability)
    if algo != AUTO:
        named = find(algo, arithmetic, special)
        if named.capability > capability:
            raise ValueError(
                f"algorithm {named.name!r} needs a GPU of compute capability {named.capability / 10:.1f}, received one "
                f"of {capability / 10:.1f}; those that it runs: {', '.join((AUTO, *(each.name for each in able)))}"
            )
        able = (named,)
    plans = _plans(rows, columns, depth, groups, dtype, tf32, able, first)
    return min((plan for plan in plans if not whole or plan.splits == 1), key=lambda plan: plan.cost)


def _able(arithmetic: str, special: bool, capability: int) -> tuple[Algorithm, ...]:
    return tuple(each for each in serving(arithmetic, special) if each.capability <= capability)


@functools.lru_cache(maxsize=1024)
def candidates(
    rows: int, columns: int, depth: int, groups: int, dtype: Any, tf32: bool, whole: bool = False, first: int = 0,
    capability: int = NEWEST,
) -> tuple[Plan, ...]:  # fmt: skip
    """Every algorithm's plan of a product, those of the least estimated time first: the first is `plan`'s."""
    names = [each.name for each in _able(arithmetic_of(dtype, tf32), first > 0, capability)]
    plans = [plan(rows, columns, depth, groups, dtype, name, tf32, whole, first) for name in names]
    return tuple(sorted(plans, key=lambda plan: plan.cost))


def _plans(
    rows: int, columns: int, depth: int, groups: int, dtype: Any, tf32: bool, able: Iterable[Algorithm], first: int
) -> Iterator[Plan]:
    outputs = rows * columns * groups
    workspace = LARGEST_WORKSPACE // (outputs * accumulation_dtype(dtype).itemsize)
    most = max(1, min(depth // _SHORTEST_SPLIT, workspace, _LARGEST_GRID_Y))
    for tile in able:
        across, down = ceil_div(columns, tile.block_n), ceil_div(rows, tile.block_m)
        blocks = across * down * groups
        # Splits that give every multiprocessor as many blocks.
        full = {_MULTIPROCESSORS * each // blocks for each in range(1, 9)}
        for wanted in {1} if tile in FIRST else sorted({1, *(min(most, splits) for splits in full if splits > 1)}):
            per_split = max(1, ceil_div(ceil_div(depth, wanted), tile.block_k)) * tile.block_k
            splits = max(1, ceil_div(depth, per_split))  # an empty depth, of a filter's gradient, sums to zero
            busiest = ceil_div(blocks * splits, _MULTIPROCESSORS)
            rate = tile.rate * min(1, busiest * tile.threads / _BUSY_THREADS)
            cost = busiest * tile.block_m * tile.block_n * (per_split + _START_DEPTH) / rate
            if splits > 1:
                cost += _REDUCE_LAUNCH + splits * (_REDUCE_SPLIT + _REDUCE_ELEMENT * outputs / _MULTIPROCESSORS)
            shared = first if tile in FIRST else tile.shared
            resident = max(1, _MULTIPROCESSORS * tile.resident // across) * across if tile.resident else blocks
            dealt_to = min(blocks, resident)
            yield Plan(tile, tf32, across, down, blocks, splits, per_split, cost, shared, dealt_to)


def vector(count: int, *arrays: Any) -> int:
    """How many of `count` neighbours move at once: 16 bytes of them where they divide and the arrays are aligned."""
    return width(count, arrays[0].dtype) if is_aligned(16, *arrays) else 1


def width(count: int, dtype: Any) -> int:
    """`vector` of aligned arrays."""
    wide = 16 // dtype.itemsize
    return wide if count % wide == 0 else 1


def compute(
    kernel: str,
    product: tuple[int, int, int, int],
    algo: str,
    tf32: bool,
    struct: Any,
    macros: dict[str, Any],
    out: Any,
    run: Callable[[Plan, Any], None],
    *,
    whole: bool = False,
    accumulate: bool = False,
    first: int = 0,
) -> None:
    """Have run(plan, out) compute a product into `out`, under the plan that algo stands for.

    product: rows, columns, depth, how many. whole, first: `plan`'s. kernel, struct, macros: what tells one
    problem from another. "auto" on a GPU may run it several times first, to see which plan is fastest: into `out`,
    which the last run overwrites, or where it accumulates into a scratch, if that is within the workspace, beside the
    partial sums.
    """
    dtype, gpu = out.dtype, tuning.gpu_of(out) if algo == AUTO and tuning.enabled() else None
    capability = capability_of(out)
    if gpu is None:
        return run(plan(*product, dtype, algo, tf32, whole, first, capability), out)
    plans = candidates(*product, dtype, tf32, whole, first, capability)
    partials = max(each.splits for each in plans) * out.size * accumulation_dtype(dtype).itemsize
    if len(plans) == 1 or (accumulate and out.nbytes + partials > LARGEST_WORKSPACE):
        return run(plans[0], out)

    @functools.cache
    def scratch() -> Any:
        return empty(out.shape, dtype, like=out) if accumulate else out

    problem = _problem(kernel, dtype, tf32, struct, macros)
    return run(tuning.choose(problem, plans, gpu, lambda plan: run(plan, scratch())), out)


def chosen(
    device: str, kernel: str, product: tuple[int, int, int, int], dtype: Any, algo: str, tf32: bool, struct: Any,
    macros: dict[str, Any], whole: bool = False, first: int = 0,
) -> Plan:  # fmt: skip
    """The plan that `compute` takes on a device without timing anything."""
    gpu = tuning.gpu_named(device) if algo == AUTO and tuning.enabled() else None
    capability = capability_named(device)
    if gpu is None:
        return plan(*product, dtype, algo, tf32, whole, first, capability)
    plans = candidates(*product, dtype, tf32, whole, first, capability)
    return tuning.recall(_problem(kernel, dtype, tf32, struct, macros), plans, gpu)


def _problem(kernel: str, dtype: Any, tf32: bool, struct: Any, macros: dict[str, Any]) -> tuning.Problem:
    return tuning.Problem(kernel, arithmetic_of(dtype, tf32), struct.tobytes(), tuple(macros.items()))


def launch(
    kernel: str,
    chosen: Plan,
    outs: tuple[Any, ...],
    inputs: tuple[Any, ...],
    struct: Any,
    macros: dict[str, Any],
    *flags: Any,
    bias: Any = None,
    activation: str | None = None,
    accumulate: bool = False,
) -> None:
    """Launch a direction's kernel(outs..., partials, inputs..., struct, schedule, flags...), and the sum of its splits.

    outs: what it writes; beside it fprop writes a mask and moments, of a depth that is whole, and wgrad a bias's
    gradient, or None. bias and activation go to whichever of the two launches writes the output.
    """
    out, beside = outs[0], outs[1] if len(outs) > 1 else None
    dtype, whole, algorithm = out.dtype, chosen.splits == 1, chosen.algorithm
    pitch = out.size + (0 if beside is None else ceil_div(beside.size, 4) * 4)  # aligned for the kernels' wide moves
    partials = None if whole else empty((chosen.splits, pitch), accumulation_dtype(dtype), like=out)
    finish = {"ACTIVATION": ACTIVATIONS[activation if whole else None]}
    defines = {"DTYPE": dtype.name} | finish | macros | algorithm.defines(arithmetic_of(dtype, chosen.tf32))
    run = load(algorithm.file(kernel), defines).kernel(f"{kernel}_{algorithm.family}")
    grid, arguments = (chosen.blocks, chosen.splits), (*outs, partials, *inputs, struct, chosen.schedule, *flags)
    run(grid, algorithm.threads, *arguments, shared=chosen.shared)
    if not whole:
        reduce_splits(out, partials, beside, bias=bias, activation=activation, accumulate=accumulate)


def reduce_splits(
    out: Any, partials: Any, beside: Any = None, *, bias: Any = None, activation: str | None = None,
    accumulate: bool = False,
) -> None:  # fmt: skip
    """out = act(bias + the sum over the first axis of partials), plus what out holds: kernels/gemm_reduce.cu.

    beside: a second output, whose sums lie behind the first's.
    """
    (splits, pitch), columns = partials.shape, 1 if bias is None else bias.size
    more, wide = 0 if beside is None else beside.size, 16 // partials.dtype.itemsize
    moves = not (pitch % wide or out.size % wide or more % wide) and is_aligned(wide * out.dtype.itemsize, out, beside)
    defines = {"DTYPE": out.dtype.name, "ACTIVATION": ACTIVATIONS[activation], "WIDTH": wide if moves else 1}
    blocks = ceil_div(out.size + more, REDUCE_OUTPUTS)
    threads = _REDUCE_LANES * min(_REDUCE_GROUPS, ceil_div(splits, _REDUCE_SHARE))
    run = load("gemm_reduce.cu", defines).kernel("gemm_reduce_splits")
    run(blocks, threads, out, beside, partials, bias, out.size, more, pitch, splits, columns, accumulate)
