"""The algorithms of a matrix product, as data for argument checks and launchers.

Convolutions and linear ops are products of implicit matrices (kernels/gemm.cuh); only depthwise convolutions have
kernels of another kind too. An algorithm is a kernel family and its tile; `ALGORITHMS` lists those for all products,
and `FEW_CHANNELS` those that serve only fprop of convolutions with few channels, such as the first layers of nets.
``algo="auto"`` lets the device choose (`gpuconv.backends.cuda.gemm`); ``algo="simt-128x64"`` selects the algorithm of
that name.

To add an algorithm, add an entry. The algorithm uses the kernels of its family. For "simt" these are
``conv2d_fprop_simt`` in kernels/conv2d_fprop.cu, ``conv2d_dgrad_simt`` in kernels/conv2d_dgrad.cu and so on. For
another family, such as "mma", they are ``conv2d_fprop_mma`` in kernels/conv2d_fprop_mma.cu and so on, with the same
parameters; those of clusters also take a tensor map. Entries with the same name serve different precisions: the same
tile may need more or fewer registers in another dtype. An algorithm that no GPU has run yet is entered with
``proved=False``: on a GPU it serves only problems for which it was proved there (docs/prover.md).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from gpuconv.few_channels import MOST_SMEM_BYTES, PIXELS, few_channels_smem_bytes
from gpuconv.names import canonical
from gpuconv.problems import MOST_FEW_CHANNELS, Conv2dProblem, Epilogue

AUTO = "auto"
NEWEST = 999  # the emulated device's compute capability, above that of every GPU
DEPTHWISE = "depthwise"  # not a matrix product; "auto" selects it for groups of one channel, in every precision
KERNELS = ("conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad", "matmul")


class UnservedError(ValueError):
    """The named algorithm does not serve this product."""


@dataclass(frozen=True)
class Algorithm:
    """A kernel family and a tile: a block of `threads` computes block_m x block_n outputs in steps of block_k.

    precisions: those of `gpuconv.dtypes.PRECISIONS` that it serves. rate: its estimated speed for the cost model; 1.0
    is the float32 peak of the CUDA cores. issued: the number of instructions that a warp issues for each HMMA of the
    main loop, by the names of `KERNELS`; the family "mma" has these numbers instead of a rate. macros: those that its
    kernels need besides the macros of every product. smem_bytes: dynamic shared memory of a block; for few channels,
    see `few_channels_smem_bytes`. resident: the number of blocks per multiprocessor if each block computes several
    tiles; 0 if each computes one. kernels: those of `KERNELS` that it has. capability: the lowest compute capability
    that it needs, 80 for 8.0; 0 if it runs on every GPU. one_chip: whether it runs only on GPUs of exactly that
    capability, because it uses instructions such as those of sm_90a. cluster_down: the number of a cluster's blocks
    whose tiles lie one below the other; they load the columns of B for each other. cluster_across: the number of a
    cluster's blocks whose tiles lie side by side; they load the rows of A for each other. proved: whether a GPU has run
    it; if none has, each GPU has to prove it for each problem first.
    """

    name: str
    family: str
    precisions: tuple[str, ...]
    block_m: int
    block_n: int
    block_k: int
    threads: int
    rate: float
    macros: Mapping[str, int] = field(hash=False)
    smem_bytes: int = 0
    resident: int = 0
    issued: Mapping[str, float] = field(default_factory=dict, hash=False)
    kernels: tuple[str, ...] = KERNELS
    capability: int = 0
    one_chip: bool = False
    cluster_down: int = 1
    cluster_across: int = 1
    proved: bool = True

    @property
    def cluster(self) -> int:
        """The number of blocks in a cluster."""
        return self.cluster_down * self.cluster_across

    def runs_on(self, capability: int) -> bool:
        """Whether a GPU of this compute capability runs it; the emulated device runs all."""
        if capability == NEWEST or not self.one_chip:
            return self.capability <= capability
        return self.capability == capability

    def file(self, kernel: str) -> str:
        """The .cu of a direction's kernel, such as "conv2d_fprop"."""
        return f"{kernel}.cu" if self.family == "simt" else f"{kernel}_{self.family}.cu"

    def defines(self, precision: str) -> dict[str, object]:
        """The macros for one of its precisions."""
        return macros_of(precision) | dict(self.macros)


class Choice(str):
    """The name of a chosen algorithm. proof: how the GPU proved it, as text for people; "" if it needs no proof."""

    proof: str

    def __new__(cls, name: str, proof: str = "") -> Choice:
        found = super().__new__(cls, name)
        found.proof = proof
        return found


def _simt(
    precisions: tuple[str, ...],
    block_m: int,
    block_n: int,
    thread_m: int,
    thread_n: int,
    min_blocks: int,
    rate: float,
    block_k: int = 8,
) -> Algorithm:
    """Scalar multiply-adds, thread_m x thread_n outputs per thread (kernels/gemm_simt.cuh).

    min_blocks: how many blocks must fit on a multiprocessor, which limits a thread's registers. rate: estimated; it
    grows mainly with the multiply-adds for each load from shared memory.
    """
    macros = dict(BLOCK_M=block_m, BLOCK_N=block_n, THREAD_M=thread_m, THREAD_N=thread_n, MIN_BLOCKS=min_blocks)
    threads = block_m // thread_m * (block_n // thread_n)
    return Algorithm(f"simt-{block_m}x{block_n}", "simt", precisions, block_m, block_n, block_k, threads, rate, macros)


def _mma(
    block_m: int,
    block_n: int,
    warp_m: int,
    warp_n: int,
    min_blocks: int,
    halves: tuple[float, float, float],
    tf32: tuple[float, float, float],
    kernels: tuple[str, ...] = KERNELS,
) -> tuple[Algorithm, ...]:
    """Tensor cores, warp_m x warp_n outputs per warp (kernels/gemm_mma.cuh): for 16-bit floats and TF32.

    halves, tf32: `issued` for 16-bit floats and for TF32, by direction; inf where there is no kernel. The numbers were
    counted in the machine code for sm_90a, in the variants that copy 16 bytes at once. min_blocks: as in `_simt`, for
    16-bit floats; TF32 has one less, because its addresses take more registers.
    """
    threads, stages = 32 * (block_m // warp_m) * (block_n // warp_n), 4
    macros = dict(BLOCK_M=block_m, BLOCK_N=block_n, THREAD_M=warp_m // 8, THREAD_N=warp_n // 4, STAGES=stages)
    make = functools.partial(
        Algorithm,
        f"mma-{block_m}x{block_n}",
        "mma",
        block_m=block_m,
        block_n=block_n,
        threads=threads,
        rate=0.0,
        capability=80,
        kernels=kernels,
        smem_bytes=stages * (block_m + block_n) * 64,  # 64 bytes of each row and column in every stage
    )
    macros_16, macros_tf32 = macros | dict(MIN_BLOCKS=min_blocks), macros | dict(MIN_BLOCKS=max(1, min_blocks - 1))
    return (
        make(precisions=("float16", "bfloat16"), block_k=32, macros=macros_16, issued=_by_direction(halves)),
        make(precisions=("tf32",), block_k=16, macros=macros_tf32, issued=_by_direction(tf32)),
    )


def _wgmma(
    block_m: int,
    block_n: int,
    stages: int,
    kernels: tuple[str, ...] = ("conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad"),
    resident: int = 1,
    cluster_down: int = 1,
    cluster_across: int = 1,
) -> Algorithm:
    """Hopper's wgmma (kernels/gemm_wgmma.cuh). No GPU has run these kernels yet. A block's last warpgroup copies tiles
    to shared memory, and the others multiply. One warpgroup multiplies if block_m is 64 or if two blocks are resident,
    otherwise two. The rate is modeled, not measured: 0.6 of the tensor cores' peak, which is 16 times that of the CUDA
    cores."""
    cluster = cluster_down * cluster_across
    rows, columns = (f"{blocks}x" if blocks > 1 else "" for blocks in (cluster_down, cluster_across))
    warpgroups = min(2, block_m // 64) // resident
    macros = dict(BLOCK_M=block_m, BLOCK_N=block_n, THREAD_M=block_m // (8 * warpgroups), THREAD_N=block_n // 16)
    # The ring of stages, the accumulators on their way to the output, and the sums of columns.
    smem_bytes = stages * (block_m + block_n) * 128 + (8 * warpgroups + 4) * 1024
    return Algorithm(
        f"wgmma-{rows}{block_m}x{columns}{block_n}",
        "wgmma_cluster" if cluster > 1 else "wgmma",
        ("float16", "bfloat16"),
        block_m,
        block_n,
        64,
        128 * (warpgroups + 1),
        9.6,
        macros | dict(MIN_BLOCKS=resident, STAGES=stages) | (dict(CLUSTER=cluster) if cluster > 1 else {}),
        smem_bytes,
        resident=resident,
        kernels=kernels,
        capability=90,
        one_chip=True,
        cluster_down=cluster_down,
        cluster_across=cluster_across,
        proved=False,
    )


def _by_direction(issued: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad"), issued)) | {"matmul": issued[0]}


# Within a family, the largest tile of a precision comes first. float64 takes twice the registers and is for gradient
# checks. On their way into shared memory, "simt" widens 16-bit floats, and rounds float32 numbers if the precision is
# TF32. So 16-bit floats and TF32 also work without tensor cores.
ALGORITHMS = (
    *_mma(128, 128, 64, 32, 2, (2.94, 3.52, 3.96), (5.81, 6.44, 6.73)),
    *_mma(128, 64, 64, 32, 3, (3.12, 3.84, 4.30), (6.12, 6.75, 7.10)),
    *_mma(64, 64, 32, 32, 3, (4.38, 5.73, 6.30), (8.38, 9.62, 10.20)),
    # for few filters or channels: the first in fprop and dgrad, the second in wgrad
    *_mma(128, 32, 32, 32, 3, (4.81, 5.80, 6.80), (8.81, 9.56, 10.45)),
    *_mma(32, 128, 32, 32, 3, (4.81, 7.30, 7.45), (8.81, 11.19, 11.56)),
    # for the gradient of a first layer's filters
    *_mma(64, 32, 32, 32, 5, (inf, inf, 7.0), (inf, inf, 10.97), kernels=("conv2d_wgrad",)),
    _wgmma(256, 128, 4),
    _wgmma(128, 256, 4),
    _wgmma(128, 128, 6),
    _wgmma(128, 128, 6, ("conv2d_fprop", "conv2d_dgrad"), cluster_down=2),  # loads the filters once for two blocks
    _wgmma(256, 64, 5, ("conv2d_fprop", "conv2d_dgrad")),  # few filters, or few channels of the input gradient
    _wgmma(128, 64, 4, ("conv2d_fprop",), resident=2),  # few filters, where a block has many tiles
    _wgmma(128, 192, 5, ("conv2d_wgrad",)),  # 3 x 3 taps of 64 channels fill three of these tiles
    _wgmma(128, 192, 5, ("conv2d_wgrad",), cluster_across=2),  # loads dy once for two blocks
    _wgmma(64, 192, 6, ("conv2d_wgrad",)),  # for few filters
    _simt(("float32",), 128, 64, 8, 8, 3, 0.80),
    _simt(("float32", "tf32"), 64, 64, 8, 8, 5, 0.75),
    _simt(("float32",), 64, 32, 8, 4, 8, 0.60),
    _simt(("float32",), 32, 32, 4, 4, 8, 0.45),
    _simt(("float32",), 64, 16, 8, 4, 8, 0.55),  # one warp per block: for few filters or channels
    _simt(("float32",), 16, 64, 4, 8, 8, 0.55),
    _simt(("float64",), 64, 32, 4, 4, 3, 0.45),
    _simt(("float16", "bfloat16"), 64, 64, 8, 8, 4, 0.70, block_k=16),
)


def _few_channels(precisions: tuple[str, ...], block_n: int, block_k: int, resident: int, rate: float) -> Algorithm:
    """A block keeps patches of the input in shared memory; a warp computes 32 pixels x all filters of the tile
    (kernels/conv2d_few_channels.cuh).

    rate: modeled for blocks that read mostly shared memory, not measured.
    """
    tile = dict(BLOCK_M=PIXELS, BLOCK_N=block_n, THREAD_M=4, THREAD_N=block_n // 4)
    macros = tile | dict(MIN_BLOCKS=resident, VECTOR_C=1)
    return Algorithm(
        f"few_channels-{PIXELS}x{block_n}",
        "few_channels",
        precisions,
        PIXELS,
        block_n,
        block_k,
        PIXELS,
        rate,
        macros,
        resident=resident,
        kernels=("conv2d_fprop",),
        capability=80,
    )


FEW_CHANNELS = (
    _few_channels(("float16", "bfloat16"), 64, 16, 2, 5.5),
    _few_channels(("float16", "bfloat16"), 32, 16, 3, 4.5),  # half the accumulators, more blocks: for few filters
    _few_channels(("tf32",), 64, 8, 2, 2.75),
    _few_channels(("float32",), 64, 1, 2, 0.85),
)
_RENAMED = {"first-256x64": "few_channels-256x64", "first-256x32": "few_channels-256x32"}  # names in old files


def macros_of(precision: str) -> dict[str, object]:
    return {"DTYPE": "float32", "TF32": 1} if precision == "tf32" else {"DTYPE": precision}


@functools.cache
def serving(precision: str, few_channels: bool = False) -> tuple[Algorithm, ...]:
    """All algorithms for a precision, in the order of `ALGORITHMS`; with few_channels, `FEW_CHANNELS` come first."""
    return tuple(a for a in (*(FEW_CHANNELS if few_channels else ()), *ALGORITHMS) if precision in a.precisions)


@functools.cache
def find(name: str, precision: str, few_channels: bool = False) -> Algorithm:
    """The algorithm of this name. Raises ValueError for an unknown name, and for an algorithm that does not serve this
    precision. The message names the nearest name, or the algorithms that serve the precision."""
    known = full_name(name)
    served = {algorithm.name: algorithm for algorithm in serving(precision, few_channels)}
    if known not in served:
        raise ValueError(f"algorithm {known!r} does not serve {precision}; those that do: {', '.join((AUTO, *served))}")
    return served[known]


def full_name(algo: object) -> str:
    """The full name of `algo`, or "auto". Raises ValueError for an unknown one and TypeError for anything but text."""
    if isinstance(algo, str) and algo == AUTO:
        return AUTO
    names = (AUTO, DEPTHWISE, *dict.fromkeys(a.name for a in (*FEW_CHANNELS, *ALGORITHMS)))
    if isinstance(algo, str):
        algo = _RENAMED.get(algo.lower().replace("_", "-"), algo)
    return canonical("algorithm", algo, names)


def for_product(algo: object, precision: str, direction: str) -> str:
    """The full name of an algorithm for one direction of a linear layer; "auto" if the algorithm has no kernel for that
    direction. Raises ValueError for an algorithm that does not serve linear layers or this precision."""
    name = full_name(algo)
    if name == DEPTHWISE:
        raise _not_depthwise()
    if name in FEW_CHANNELS_NAMES:
        raise _not_few_channels(name)
    return AUTO if name == AUTO else _in_direction(find(name, precision), direction)


def for_convolution(algo: object, problem: Conv2dProblem, epilogue: Epilogue, precision: str, direction: str) -> str:
    """The full name of an algorithm for one direction ("fprop", "dgrad", "wgrad") of a convolution.

    "auto" becomes "depthwise" if the depthwise kernels serve the convolution. An algorithm without a kernel for this
    direction becomes "auto".
    Raises ValueError if the algorithm does not serve this convolution or precision.
    """
    name = full_name(algo)
    plain = epilogue.plain_store if direction == "fprop" else not epilogue.norm_sums
    depthwise = problem.depthwise and plain
    if name == DEPTHWISE and not depthwise:
        raise _not_plain_store() if problem.depthwise else _not_depthwise()
    if name in (AUTO, DEPTHWISE):
        return DEPTHWISE if depthwise else AUTO
    few_channels = few_channels_smem_bytes(problem, epilogue.pool, precision) > 0
    if name in FEW_CHANNELS_NAMES and not few_channels:
        raise _not_few_channels(name)
    return _in_direction(find(name, precision, few_channels), direction)


def _in_direction(algorithm: Algorithm, direction: str) -> str:
    return algorithm.name if f"conv2d_{direction}" in algorithm.kernels else AUTO


FEW_CHANNELS_NAMES = {each.name for each in FEW_CHANNELS}


def _not_depthwise() -> ValueError:
    return ValueError("algorithm 'depthwise' serves convolutions in several groups of one channel each")


def _not_plain_store() -> ValueError:
    return ValueError("algorithm 'depthwise' stores only the output; it writes no mask, saved input or sums")


def _not_few_channels(name: str) -> ValueError:
    return ValueError(
        f"algorithm {name!r} serves convolutions in one group of at most {MOST_FEW_CHANNELS} channels, by filters "
        f"larger than 1 x 1, where a block's lines of x and its filters fit in {MOST_SMEM_BYTES // 1024} KiB"
    )


def algorithm_of_launch(kernel: str, macros: Mapping[str, str]) -> str | None:
    """The name of the algorithm whose kernel was launched, compiled with these macros; None for any other kernel."""
    if kernel.endswith(f"_{DEPTHWISE}"):
        return DEPTHWISE
    precision = "tf32" if "TF32" in macros else macros.get("DTYPE", "")
    for algorithm in serving(precision, few_channels=True):
        own = {name: str(value) for name, value in algorithm.defines(precision).items()}
        if kernel.endswith(f"_{algorithm.family}") and own.items() <= dict(macros).items():
            return algorithm.name
    return None
