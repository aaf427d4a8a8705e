"""Plans a product: its algorithm, and how many thread blocks share its depth.

The splits depend only on the algorithm and the product: its sizes, dtype and epilogue, and how many numbers move at
once. So an algorithm's bits do not depend on the machine. On a GPU, "auto" is the algorithm that `tuner` measured to be
the fastest: two machines may choose different ones, but each gives the same bits on both. On the emulated device, and
if measuring is switched off, "auto" is the choice of a cost model, which is the same on all devices of one compute
capability.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuconv.algorithms import AUTO, FEW_CHANNELS, NEWEST, Algorithm, UnservedError, find, serving
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.runtime.limits import MAX_GRID, SCHEDULERS
from gpuconv.backends.cuda.runtime.structs import FAST_DIVMOD, fast_divmod, struct
from gpuconv.dtypes import accumulation_dtype
from gpuconv.integers import ceil_div

LARGEST_WORKSPACE = 64 * 2**20  # bytes of partial sums and, while the tuner measures, of scratch outputs

# Plans are made for an H200, whatever device runs them. Costs are in multiply-adds of one multiprocessor.
_MULTIPROCESSORS = 132
_BUSY_THREADS = 256  # threads that saturate the arithmetic of one multiprocessor
_START_DEPTH = 32  # the fixed cost of a block, expressed as extra depth
_MULTIPLY_ADDS_PER_CLOCK = 128  # multiply-adds per clock of a multiprocessor's CUDA cores
# Clocks of kernels on tensor cores: per block, and per instruction and HMMA of a scheduler. They are copied from the
# performance model (analysis/predict_time.json), because a plan must not change with each refit.
_BLOCK_CLOCKS, _INSTRUCTION_CLOCKS, _HMMA_CLOCKS = 1916, 1.671, 3.319
_SINGLE_LOADS = 3  # factor on the instructions of wgrad's tiles that load x one number at a time, as in a first layer
_BYTES_PER_CLOCK = 4.256e12 / 1.98e9 / _MULTIPROCESSORS  # per multiprocessor, from the model's copy rate and clock
_SECOND_LAUNCH_CLOCKS = 2344  # clocks until the reduction after split-K starts; not confirmed by a record
_SHORTEST_SPLIT = 128  # the least depth of a split, except the last

_TILE_SCHEDULER = np.dtype(
    [("across", FAST_DIVMOD), ("down", FAST_DIVMOD), ("depth_per_split", np.int32), ("tiles", np.int32)], align=True
)


@dataclass(frozen=True, eq=False)
class Plan:
    """A product's algorithm, and how its result is divided into tiles and its depth into split_k parts.

    across, down: the tiles along n and m, rounded up to whole clusters, so the last ones may have no columns or no
    rows. tiles: their number in all batches. cost: the estimated time, in multiply-adds of one multiprocessor.
    smem_bytes: dynamic shared memory per block. blocks: number of thread blocks of a split; each takes one or several
    tiles. proof: how a GPU proved the algorithm for the product, as text for people; "" if there is no proof.
    """

    algorithm: Algorithm
    across: int
    down: int
    tiles: int
    split_k: int
    depth_per_split: int
    cost: float
    smem_bytes: int
    blocks: int
    proof: str = ""

    @functools.cached_property
    def scheduler(self) -> np.void:
        """The kernels' `struct TileScheduler`, which counts the tiles of a cluster as one."""
        return struct(
            _TILE_SCHEDULER,
            fast_divmod(self.across // self.algorithm.cluster_across),
            fast_divmod(self.down // self.algorithm.cluster_down),
            self.depth_per_split,
            self.tiles // self.algorithm.cluster,
        )


@functools.lru_cache(maxsize=4096)
def plan(product: Product, algo: str = AUTO, capability: int = NEWEST) -> Plan:
    """The plan with the least estimated time. algo: the name of its algorithm, or "auto" for any algorithm that serves
    the product, runs on this GPU and needs no proof. Ties go to the algorithm that is listed first, then to fewer
    splits. capability: the GPU's, 90 for 9.0.

    Raises ValueError for a name that is unknown or does not serve the precision, and for an algorithm that this GPU
    cannot run; UnservedError for one that does not serve the product.
    """
    algorithms = _supported(product, capability, proved=True)
    if algo != AUTO:
        named = find(algo, product.precision, product.few_channels_smem_bytes > 0)
        if not named.runs_on(capability):
            raise ValueError(
                f"algorithm {named.name!r} needs a GPU of compute capability {named.capability / 10:.1f}, received one "
                f"of {capability / 10:.1f}; that GPU runs: "
                f"{', '.join((AUTO, *(a.name for a in algorithms)))}"
            )
        _expect_served(product, named)
        algorithms = (named,)
    plans = (each for algorithm in algorithms for each in _plans(product, algorithm))
    return min(plans, key=lambda plan: plan.cost)


@functools.lru_cache(maxsize=1024)
def candidates(product: Product, capability: int = NEWEST) -> tuple[Plan, ...]:
    """A product's plans, one for each algorithm that this GPU runs and that needs no proof, fastest estimate first; the
    first is that of `plan`."""
    return _plans_of(product, _supported(product, capability, proved=True))


@functools.lru_cache(maxsize=1024)
def unproved_plans(product: Product, capability: int = NEWEST) -> tuple[Plan, ...]:
    """A product's plans, one for each algorithm that this GPU runs but has to prove first, fastest estimate first."""
    return _plans_of(product, _supported(product, capability, proved=False))


def _plans_of(product: Product, algorithms: tuple[Algorithm, ...]) -> tuple[Plan, ...]:
    plans = [plan(product, algorithm.name) for algorithm in algorithms]
    return tuple(sorted(plans, key=lambda plan: plan.cost))


def _supported(product: Product, capability: int, proved: bool) -> tuple[Algorithm, ...]:
    listed = serving(product.precision, product.few_channels_smem_bytes > 0)
    return tuple(a for a in listed if a.proved == proved and serves(product, a) and a.runs_on(capability))


def serves(product: Product, algorithm: Algorithm) -> bool:
    """Whether an algorithm has a kernel for a product. Kernels that run in clusters always move 16 bytes at
    once, and take no empty batch."""
    packed = product.k > 0 and all(product.macros.get(name, 1) > 1 for name in ("VECTOR_C", "VECTOR_K"))
    return product.kernel in algorithm.kernels and (algorithm.cluster == 1 or packed)


def _expect_served(product: Product, named: Algorithm) -> None:
    if serves(product, named):
        return
    problem = product.problem
    counts = [each // problem.groups for each in (problem.c, problem.k)] if problem else [0, 0]
    wrong = not all(counts) or any(each % 8 for each in counts)
    if wrong:
        received = f"{counts[0]} channels and {counts[1]} filters a group"
    else:
        received = "arrays at other addresses" if product.k else "an empty batch"
    raise UnservedError(
        f"algorithm {named.name!r} moves 16 bytes at once: it takes a batch that is not empty, channels and filters of "
        f"a group in multiples of 8, and arrays whose rows begin at multiples of 16 bytes, received {received}"
    )


def partials_bytes(product: Product, split_k: int) -> int:
    """Bytes of the partial sums with this split_k."""
    return split_k * product.m * product.n * product.batches * accumulation_dtype(product.dtype).itemsize


def _plans(product: Product, algorithm: Algorithm) -> Iterator[Plan]:
    """An algorithm's plans: one without split-K and, where it is allowed, more with several values of split_k."""
    across, down = tiles_of(product, algorithm)
    tiles, few_channels = across * down * product.batches, algorithm in FEW_CHANNELS
    smem_bytes = product.few_channels_smem_bytes if few_channels else algorithm.smem_bytes
    for most in [1] if few_channels or not product.split_k else _split_k_values(product, tiles):
        per_split = max(1, ceil_div(ceil_div(product.k, most), algorithm.block_k)) * algorithm.block_k
        split_k = max(1, ceil_div(product.k, per_split))  # an empty batch has depth 0: its one split writes zeros
        blocks = _blocks(algorithm, across, tiles, split_k)
        # If a block computes several tiles, some blocks may be idle in the last turn. The cost includes their slots,
        # except for few channels.
        tile_slots = tiles if few_channels else ceil_div(tiles, blocks) * blocks
        cost = _main_loop_cost(product, algorithm, tile_slots * split_k, per_split)
        if split_k > 1:
            moved = partials_bytes(product, split_k) / _MULTIPROCESSORS
            cost += _MULTIPLY_ADDS_PER_CLOCK * (_SECOND_LAUNCH_CLOCKS + moved / _BYTES_PER_CLOCK)
        yield Plan(algorithm, across, down, tiles, split_k, per_split, cost, smem_bytes, blocks)


def tiles_of(product: Product, algorithm: Algorithm) -> tuple[int, int]:
    """The numbers of tiles across and down, rounded up to whole clusters."""
    cluster_across, cluster_down = algorithm.cluster_across, algorithm.cluster_down
    across = ceil_div(product.n, cluster_across * algorithm.block_n) * cluster_across
    down = ceil_div(product.m, cluster_down * algorithm.block_m) * cluster_down
    return across, down


def _blocks(algorithm: Algorithm, across: int, tiles: int, split_k: int) -> int:
    """The number of blocks of a split: one for each tile or, if a block of the algorithm computes several tiles, as
    many as run at once. It is a multiple of the number of blocks in a cluster; for few channels it is a multiple of the
    tiles across, so that each block keeps its filters."""
    if not algorithm.resident:
        return tiles
    at_once = _MULTIPROCESSORS * algorithm.resident // split_k
    multiple = across if algorithm in FEW_CHANNELS else algorithm.cluster
    return min(tiles, max(1, at_once // multiple) * multiple)


def _main_loop_cost(product: Product, algorithm: Algorithm, blocks: int, depth: int) -> float:
    """The cost of a launch of `blocks` blocks, each for one tile of this depth, without the reduction.

    The busiest multiprocessor counts. On tensor cores with more than one wave of blocks, the mean counts, because a
    multiprocessor that finishes takes the next block while others work.
    """
    busiest = ceil_div(blocks, _MULTIPROCESSORS)
    busy = min(1, busiest * algorithm.threads / _BUSY_THREADS)
    outputs = algorithm.block_m * algorithm.block_n
    if not algorithm.issued:
        return busiest * outputs * (depth + _START_DEPTH) / (algorithm.rate * busy)
    one_wave = blocks <= _MULTIPROCESSORS * algorithm.macros["MIN_BLOCKS"]
    blocks_each = busiest if one_wave else blocks / _MULTIPROCESSORS
    hmma = outputs * depth / (16 * 8 * algorithm.block_k / 2) / SCHEDULERS  # an HMMA: 16 x 8 outputs, depth block_k / 2
    singly = product.kernel == "conv2d_wgrad" and product.macros.get("VECTOR_C") == 1
    issued = _INSTRUCTION_CLOCKS * algorithm.issued[product.kernel] * (_SINGLE_LOADS if singly else 1) + _HMMA_CLOCKS
    return blocks_each * (_BLOCK_CLOCKS + hmma * issued / busy) * _MULTIPLY_ADDS_PER_CLOCK


def _split_k_values(product: Product, tiles: int) -> list[int]:
    """1, and values of split_k that give all multiprocessors about the same number of blocks. The partial sums fit into
    the workspace, and each split but the last has a depth of at least _SHORTEST_SPLIT."""
    within = LARGEST_WORKSPACE // partials_bytes(product, 1)
    most = max(1, min(product.k // _SHORTEST_SPLIT, within, MAX_GRID[1]))
    full = {_MULTIPROCESSORS * blocks // tiles for blocks in range(1, 9)}
    return sorted({1, *(min(most, split_k) for split_k in full if split_k > 1)})
