"""The kernels' resources on a GPU: registers, shared memory, stack, spills, and the resulting occupancy."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from gpuconv.backends.cuda.analysis.variants import Variant, kernels, representatives
from gpuconv.backends.cuda.runtime import nvrtc, source
from gpuconv.backends.cuda.runtime.limits import SCHEDULERS, WARP
from gpuconv.backends.cuda.runtime.nvrtc import CompileError, Resources
from gpuconv.integers import ceil_div

THOROUGH = ("sm_80", "sm_90a")  # the architectures for which every variant is compiled, see `jobs`
DEFAULT_BLOCK = 256  # threads of a block if a kernel declares no bound


@dataclass(frozen=True)
class Chip:
    """A multiprocessor's limits (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    warps: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536
    reserved: int = 1024  # bytes of each block's shared memory that the system reserves


CHIPS = {  # by compute capability
    75: Chip(32, 16, 64 * 1024, reserved=0),
    80: Chip(64, 32, 164 * 1024),
    86: Chip(48, 16, 100 * 1024),
    87: Chip(48, 16, 164 * 1024),
    89: Chip(48, 24, 100 * 1024),
    90: Chip(64, 32, 228 * 1024),
    100: Chip(64, 32, 228 * 1024),
    103: Chip(64, 32, 228 * 1024),
    110: Chip(48, 24, 228 * 1024),
    120: Chip(48, 24, 100 * 1024),
    121: Chip(48, 24, 100 * 1024),
}
_REGISTER_UNIT = 256  # registers are allocated to a warp in units of this many
_SHARED_UNIT = 128  # shared memory is allocated to a block in units of this many bytes


@dataclass(frozen=True)
class Line:
    """One kernel of one variant on one architecture."""

    variant: Variant
    arch: str
    kernel: str
    threads: int
    resources: Resources
    occupancy: float | None  # a fraction of the multiprocessor's warps; None for an unknown chip

    @property
    def clean(self) -> bool:
        """Whether it neither spills nor uses local memory."""
        return not (self.resources.stack or self.resources.spill_stores or self.resources.spill_loads)


def chip_of(arch: str) -> Chip | None:
    """The limits of "sm_90a" and the like; None for an architecture sm_... whose limits are unknown."""
    return CHIPS.get(int(arch.removeprefix("sm_").rstrip("af")))


def occupancy(arch: str, registers: int, shared: int, threads: int) -> float | None:
    """The fraction of a multiprocessor's warps that these blocks can fill; None for an unknown chip. Arguments as in
    `resident_blocks`."""
    chip, blocks = chip_of(arch), resident_blocks(arch, registers, shared, threads)
    return None if chip is None or blocks is None else blocks * ceil_div(threads, WARP) / chip.warps


def resident_blocks(arch: str, registers: int, shared: int, threads: int) -> int | None:
    """The blocks that a multiprocessor holds at once; None for an unknown chip.

    registers: per thread. shared: bytes per block. The tightest limit counts: warps, blocks, registers, or shared
    memory.
    """
    chip, warps = chip_of(arch), ceil_div(threads, WARP)
    if chip is None:
        return None
    limits = [chip.blocks, chip.warps // warps]
    if shared_per_block := ceil_div(shared + chip.reserved, _SHARED_UNIT) * _SHARED_UNIT:
        limits.append(chip.shared // shared_per_block)
    if registers:
        registers_per_warp = ceil_div(registers * WARP, _REGISTER_UNIT) * _REGISTER_UNIT
        limits.append(chip.registers // SCHEDULERS // registers_per_warp * SCHEDULERS // warps)
    return min(limits)


def jobs(chosen: Sequence[Variant], archs: Iterable[str], everything: bool) -> list[tuple[Variant, str]]:
    """The variants that the report compiles, each with an architecture.

    For the architectures in `THOROUGH`, where registers are scarcest, it compiles all variants; for the others, one of
    each file and precision. With `everything`, it compiles all variants for every architecture. A variant that uses
    instructions of one architecture is compiled only for that one."""
    few = representatives(chosen)
    listed = ((v, arch) for arch in archs for v in (chosen if everything or arch in THOROUGH else few))
    return [(v, arch) for v, arch in listed if v.compiles_for(arch)]


def report(listed: Sequence[tuple[Variant, str]], workers: int = 1) -> Iterator[list[Line | CompileError]]:
    """Compile variants, each for an architecture; yields for each the lines of its kernels, or a CompileError.

    workers: the number of processes that compile. Threads would not help, because NVRTC serializes the compilations of
    a process.
    """
    if workers == 1:
        yield from itertools.starmap(_compile, listed)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_compile, *zip(*listed), chunksize=8) if listed else ()


def _compile(variant: Variant, arch: str) -> list[Line | CompileError]:
    path = source.resolve(variant.file)
    try:
        binary = nvrtc.compile_cubin(path.stem, source.flatten(path), dict(variant.defines), arch)
    except CompileError as error:
        return [CompileError(f"{variant}: {error}")]
    lines: list[Line | CompileError] = []
    for name, signature in kernels(variant).items():
        found, threads = binary.resources[name], signature.max_threads or DEFAULT_BLOCK
        share = occupancy(arch, found.registers, found.static_shared + variant.smem_bytes, threads)
        lines.append(Line(variant, arch, name, threads, found, share))
    return lines
