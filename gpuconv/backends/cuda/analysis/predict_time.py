"""The predicted time of a convolution on a GPU: from its machine code, its plan, and rates fitted to GPU records.

    time = launch + block * (blocks of the busiest multiprocessor, or the mean: see `terms`)
                  + instruction * (instructions that a scheduler issues in the main loop)
                  + hmma * (tensor-core multiplications among them)
                  + reduction * (blocks that add up a split depth) + the partial sums' bytes at the copy rate

or the time of the bytes that must pass through memory, at the GPU's copy rate, if that is more. The rates, in clock
cycles, and the error of the fit are in predict_time.json, which `python -m bench fit` writes from the records in
bench/results. Every number computed here is a prediction; `python -m bench predict` compares it with measurements.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.analysis import machine_code, resources
from gpuconv.backends.cuda.analysis.machine_code import Instruction, MainLoop
from gpuconv.backends.cuda.runtime import nvrtc, source
from gpuconv.backends.cuda.runtime.limits import SCHEDULERS, WARP
from gpuconv.integers import ceil_div
from gpuconv.types import Record

FILE = Path(__file__).with_name("predict_time.json")


@dataclass(frozen=True)
class Gpu:
    """A model of GPU. arch: the architecture that kernels are compiled for. clock: the boost clock in Hz. copy: bytes a
    second, read plus written. matrix: FLOP/s of a large product in bfloat16."""

    name: str
    arch: str
    multiprocessors: int
    clock: float
    copy: float
    matrix: float


# The clocks and the numbers of multiprocessors are NVIDIA's; the H200's copy and matrix rates were measured. The H100's
# copy rate is assumed to be the same share of its peak as the H200's, and its matrix rate to be equal to the H200's.
GPUS = {
    "h200": Gpu("NVIDIA H200", "sm_90a", 132, 1.98e9, 4.256e12, 708.3e12),
    "h100": Gpu("NVIDIA H100 SXM", "sm_90a", 132, 1.98e9, 4.256e12 / 4.8 * 3.35, 708.3e12),
}


@dataclass(frozen=True)
class Terms:
    """The work of a convolution on a GPU. In a model, each field holds the cycles that one unit of this work costs.

    launch: the number of launches, 1. block: thread blocks of the busiest multiprocessor, or the mean of all
    multiprocessors (see `terms`). instruction, hmma: what a scheduler of a multiprocessor with so many blocks issues in
    the main loop. reduction: thread blocks of the split-K reduction, if they compute 32 outputs each. It is 0 for
    blocks of 1024 outputs: their time follows from their bytes.
    """

    launch: float
    block: float
    instruction: float
    hmma: float
    reduction: float

    def __mul__(self, rates: Terms) -> Terms:
        return Terms(*(getattr(self, name) * getattr(rates, name) for name in TERMS))


TERMS = tuple(field.name for field in fields(Terms))


@dataclass(frozen=True)
class Prediction:
    """A predicted time. seconds: the time. parts: the seconds of each term and of moving the bytes, which overlaps
    the terms. binds: the name of the largest part."""

    seconds: float
    parts: Mapping[str, float]
    binds: str


@dataclass(frozen=True)
class Model:
    """The fitted model. gpu: the GPU of the fitted records. rates: cycles of each of `Terms`. rows: the fitted records.

    rms: the relative error over the rows. left_out: the same error if each row is predicted by a model fitted to all
    others. nvrtc: the compiler whose instructions were counted.
    """

    gpu: str
    rates: Terms
    rms: float
    left_out: float
    nvrtc: str
    rows: tuple[Record, ...]

    @classmethod
    def load(cls) -> Model:
        return cls.of(json.loads(FILE.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, stored: Record) -> Model:
        return cls(
            stored["gpu"],
            Terms(**stored["rates"]),
            stored["rms"],
            stored["left_out"],
            stored["nvrtc"],
            tuple(stored["rows"]),
        )

    def __str__(self) -> str:
        return (
            f"fitted to {len(self.rows)} convolutions timed on {self.gpu}, instructions counted with {self.nvrtc}: "
            f"rms error {self.rms:.1%}, {self.left_out:.1%} for rows left out of the fit"
        )

    def as_json(self) -> Record:
        return asdict(self)

    def predict(self, work: Terms, gpu: Gpu, moved: float, partials: float = 0) -> Prediction:
        """The predicted time of this work. moved: the bytes that must pass through memory. partials: the bytes that the
        split-K reduction reads."""
        cycles = work * self.rates
        parts = {name: getattr(cycles, name) / gpu.clock for name in TERMS}
        parts["reduction"] += partials / gpu.copy
        copy_seconds = moved / gpu.copy
        seconds = max(sum(parts.values()), copy_seconds)
        parts["bytes"] = copy_seconds
        return Prediction(seconds, parts, max(parts, key=parts.__getitem__))


def terms(
    loop: MainLoop,
    *,
    blocks: int,
    tiles_of_depth: int,
    threads: int,
    resident: int,
    reduction: int,
    multiprocessors: int,
) -> Terms:
    """The work of a launch of `blocks` thread blocks, each with `tiles_of_depth` iterations of its main loop.

    resident: blocks on a multiprocessor at once. If all blocks are resident at once, the multiprocessor with the most
    blocks counts, else the mean, because multiprocessors that finish early take more blocks.
    """
    at_once = blocks <= multiprocessors * resident
    blocks_each = ceil_div(blocks, multiprocessors) if at_once else blocks / multiprocessors
    turns = blocks_each * tiles_of_depth * threads / WARP / SCHEDULERS
    return Terms(1, blocks_each, turns * loop.instructions, turns * loop.hmma, reduction)


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel: its main loop for one tile of the depth, its registers, and its static shared memory in
    bytes."""

    loop: MainLoop
    registers: int
    shared: int


def machine_code_of(
    algorithm: Algorithm, direction: str, precision: str, vectors: tuple[int, int], arch: str
) -> tuple[nvrtc.Resources, list[Instruction]]:
    """The resources and the instructions of a direction's plain kernel. vectors: VECTOR_C and VECTOR_K.

    Raises CompileError if NVRTC or nvdisasm is missing.
    """
    file = source.resolve(algorithm.file(f"conv2d_{direction}"))
    chosen = algorithm.defines(precision) | dict(ACTIVATION="Identity", VECTOR_C=vectors[0], VECTOR_K=vectors[1])
    defines = {name: str(value) for name, value in chosen.items()}
    name = f"conv2d_{direction}_{algorithm.family}"
    binary = nvrtc.compile_cubin(file.stem, source.flatten(file), defines, arch)
    return binary.resources[name], machine_code.disassemble(binary.path)[name]


@functools.cache
def compiled(algorithm: Algorithm, direction: str, precision: str, vectors: tuple[int, int], arch: str) -> Compiled:
    """The counts of the kernel of `machine_code_of`. Raises its errors, and ValueError for an algorithm without tensor
    cores."""
    used, instructions = machine_code_of(algorithm, direction, precision, vectors, arch)
    loop = machine_code.main_loop(instructions)
    if loop is None:
        raise ValueError(f"algorithm {algorithm.name!r} has no loop on tensor cores; the model covers no others")
    # The HMMA instructions of a warp for one tile of the depth.
    hmma_per_tile = algorithm.macros["THREAD_M"] * algorithm.macros["THREAD_N"] // 2
    return Compiled(loop.share(hmma_per_tile), used.registers, used.static_shared)


def resident_blocks(arch: str, registers: int, shared: int, threads: int) -> int:
    """As `resources.resident_blocks`, but raises ValueError for an unknown chip."""
    blocks = resources.resident_blocks(arch, registers, shared, threads)
    if blocks is None:
        raise ValueError(f"the limits of {arch} are not known here")
    return blocks
