"""The algorithms of a matrix product, by name: data alone, which argument checks and launchers read alike.

Every convolution and linear op is a product of implicit matrices (kernels/gemm.cuh). An algorithm is a kernel family
and the tile it works on; `ALGORITHMS` lists them all. ``algo="auto"`` leaves the choice to the device
(`gpuconv.backends.cuda.gemm`), ``algo="simt-128x64"`` takes that one.

To add one, add its entry. Its kernels are those of its family: ``conv2d_fprop_simt``, ``conv2d_dgrad_simt`` and
``conv2d_wgrad_simt`` in kernels/conv2d_fprop.cu and so on; those of another family, say "mma", are
``conv2d_fprop_mma`` in kernels/conv2d_fprop_mma.cu and so on, with the same parameters. All entries of one name serve
different arithmetics: a tile may need other registers in another dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuconv.names import lookup

AUTO = "auto"
DEPTHWISE = "depthwise"  # no product of matrices: serves groups of one channel, in every arithmetic; "auto" for them
ARITHMETICS = ("float64", "float32", "tf32", "float16", "bfloat16")  # a dtype, or float32 arrays multiplied in TF32


@dataclass(frozen=True)
class Algorithm:
    """A kernel family and a tile: block_m x block_n outputs a block of `threads`, block_k of the depth at a time.

    arithmetics: those of `ARITHMETICS` it serves. rate: its estimated multiply-adds a second, as a share of the peak
    of the ordinary units in float32, 1.0; what the cost model compares. macros: what its kernels are compiled with,
    beside those of every product. shared: bytes of dynamic shared memory a block.
    """

    name: str
    family: str
    arithmetics: tuple[str, ...]
    block_m: int
    block_n: int
    block_k: int
    threads: int
    rate: float
    macros: Mapping[str, int] = field(hash=False)
    shared: int = 0

    def file(self, kernel: str) -> str:
        """The .cu of a direction's kernel, such as "conv2d_fprop"."""
        return f"{kernel}.cu" if self.family == "simt" else f"{kernel}_{self.family}.cu"

    def defines(self, arithmetic: str) -> dict[str, Any]:
        """The macros for one of its arithmetics."""
        return macros_of(arithmetic) | dict(self.macros)


def _simt(
    arithmetics: tuple[str, ...], block_m: int, block_n: int, thread_m: int, thread_n: int, min_blocks: int,
    rate: float, block_k: int = 8,
) -> Algorithm:  # fmt: skip
    """Scalar multiply-adds, thread_m x thread_n outputs a thread (kernels/gemm_simt.cuh).

    min_blocks: how many blocks fit on a multiprocessor, which bounds a thread's registers. rate: what its ratio of
    multiply-adds to shared-memory loads allows.
    """
    macros = dict(BLOCK_M=block_m, BLOCK_N=block_n, THREAD_M=thread_m, THREAD_N=thread_n, MIN_BLOCKS=min_blocks)
    threads = block_m // thread_m * (block_n // thread_n)
    return Algorithm(
        f"simt-{block_m}x{block_n}", "simt", arithmetics, block_m, block_n, block_k, threads, rate, macros
    )


def _mma(block_m: int, block_n: int, warp_m: int, warp_n: int, min_blocks: int, rate: float) -> tuple[Algorithm, ...]:
    """Tensor cores, warp_m x warp_n outputs a warp (kernels/gemm_mma.cuh): for halves, and for TF32 at half the rate.

    Modelled, not measured: the tile's multiply-adds a byte, at the 24 bytes a clock that a multiprocessor of an H200
    gets from the second-level cache, against the 128 multiply-adds of its ordinary units. rate: that of halves.
    min_blocks: of halves; TF32 needs more registers for addresses.
    """
    threads, stages = 32 * (block_m // warp_m) * (block_n // warp_n), 4
    macros = dict(BLOCK_M=block_m, BLOCK_N=block_n, THREAD_M=warp_m // 8, THREAD_N=warp_n // 4, STAGES=stages)
    made = functools.partial(Algorithm, f"mma-{block_m}x{block_n}", "mma", block_m=block_m, block_n=block_n)
    made = functools.partial(made, threads=threads, shared=stages * (block_m + block_n) * 64)
    return (
        made(("float16", "bfloat16"), block_k=32, rate=rate, macros=macros | dict(MIN_BLOCKS=min_blocks)),
        made(("tf32",), block_k=16, rate=rate / 2, macros=macros | dict(MIN_BLOCKS=max(1, min_blocks - 1))),
    )


# Of each arithmetic the largest tile first. Doubles take twice the registers and serve gradient checks; halves are
# widened on their way into shared memory, and TF32 rounded there, to be right where no tensor core is asked for.
ALGORITHMS = (
    *_mma(128, 128, 64, 32, 2, 6.0),
    *_mma(128, 64, 64, 32, 3, 4.0),
    *_mma(64, 64, 32, 32, 3, 3.0),
    _simt(("float32",), 128, 64, 8, 8, 3, 0.80),
    _simt(("float32", "tf32"), 64, 64, 8, 8, 5, 0.75),
    _simt(("float32",), 64, 32, 8, 4, 8, 0.60),
    _simt(("float32",), 32, 32, 4, 4, 8, 0.45),
    _simt(("float32",), 64, 16, 8, 4, 8, 0.55),  # few filters or channels, and their gradient: a warp a block
    _simt(("float32",), 16, 64, 4, 8, 8, 0.55),
    _simt(("float64",), 64, 32, 4, 4, 3, 0.45),
    _simt(("float16", "bfloat16"), 64, 64, 8, 8, 4, 0.70, block_k=16),
)


def macros_of(arithmetic: str) -> dict[str, Any]:
    return {"DTYPE": "float32", "TF32": 1} if arithmetic == "tf32" else {"DTYPE": arithmetic}


@functools.cache
def arithmetic_of(dtype: Any, tf32: bool) -> str:
    return "tf32" if tf32 else dtype.name


@functools.cache
def serving(arithmetic: str) -> tuple[Algorithm, ...]:
    """All that serve an arithmetic, in the order of `ALGORITHMS`."""
    return tuple(algorithm for algorithm in ALGORITHMS if arithmetic in algorithm.arithmetics)


@functools.cache
def find(name: str, arithmetic: str) -> Algorithm:
    """The algorithm of a name. Raises ValueError for an unknown one, naming the nearest, and for one that does not
    serve this arithmetic, naming those that do."""
    known = lookup("algorithm", name, {a.name: a.name for a in ALGORITHMS})
    served = {algorithm.name: algorithm for algorithm in serving(arithmetic)}
    if known not in served:
        raise ValueError(
            f"algorithm {known!r} does not serve {arithmetic}; those that do: {', '.join((AUTO, *served))}"
        )
    return served[known]


def listed(algo: Any) -> str:
    """`algo` as it is listed, "auto" or a name. Raises ValueError for an unknown one and TypeError for no name."""
    if isinstance(algo, str) and algo == AUTO:
        return AUTO
    return lookup("algorithm", algo, {name: name for name in (AUTO, DEPTHWISE, *(a.name for a in ALGORITHMS))})


def checked(algo: Any, arithmetic: str, depthwise: bool = False) -> str:
    """`listed`, and it serves the arithmetic, else ValueError.

    depthwise: whether it is for a convolution in several groups of one channel each, of which "auto" is "depthwise".
    """
    name = listed(algo)
    if name == DEPTHWISE and not depthwise:
        raise ValueError("algorithm 'depthwise' serves convolutions in several groups of one channel each")
    if name in (AUTO, DEPTHWISE):
        return DEPTHWISE if depthwise else AUTO
    return find(name, arithmetic).name


def of_launch(kernel: str, macros: Mapping[str, str]) -> str | None:
    """The name of the algorithm that a launched kernel, compiled with these macros, belongs to; None for others."""
    if kernel.endswith(f"_{DEPTHWISE}"):
        return DEPTHWISE
    arithmetic = "tf32" if "TF32" in macros else macros.get("DTYPE", "")
    for algorithm in serving(arithmetic):
        own = {name: str(value) for name, value in algorithm.defines(arithmetic).items()}
        if kernel.endswith(f"_{algorithm.family}") and own.items() <= dict(macros).items():
            return algorithm.name
    return None
