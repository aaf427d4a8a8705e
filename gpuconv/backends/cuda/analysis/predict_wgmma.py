"""The predicted time of a convolution by wgmma (kernels/gemm_wgmma.cuh). No GPU has run these kernels.

    time = launch + prologue + turns * stages * max(tensor, shared, l2, issue) + epilogue + reduction

or the time of its bytes at the GPU's copy rate, or of its arithmetic at the measured ceiling, if that is more. Blocks
compute one tile after another; `turns` is the number of tiles of the busiest multiprocessor, which holds one block, or
two with some tile sizes. A block pays the prologue once, or for each tile if its ring of stages runs empty. While a
block stores a tile, its ring of stages is filled for the next one, and the other block, if there is one, multiplies.
`epilogue` is the time to store the last tile, plus the part of the other tiles' stores that this overlapping work does
not hide. docs/performance-model.md says where the rates come from.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gpuconv.algorithms import Algorithm
from gpuconv.backends.cuda.analysis import machine_code, predict_time
from gpuconv.backends.cuda.analysis.predict_time import Gpu, Model, Prediction
from gpuconv.backends.cuda.runtime.limits import SCHEDULERS, WARP

MULTIPLY_ADDS = 2048  # of 16-bit numbers per clock of a multiprocessor: NVIDIA's peak
SHARED = 128  # bytes of shared memory per clock of a multiprocessor: NVIDIA's
L2 = 5120  # bytes per clock of the GPU: NVIDIA's for the A100, assumed for Hopper
LATENCY = 1000  # clocks from a block's start to its first tile: assumed
CLUSTER_SYNC = 200  # clocks of one barrier of a cluster's blocks: assumed; every block waits at two
EXECUTED = 0.5  # a block runs this share of the code outside its multiplying and its copying loop: assumed
COPYING = 4  # warps of a block that copy; the others multiply


@dataclass(frozen=True)
class WarpCode:
    """Instructions that a multiplying warp and a copying warp issue per stage, and the number of all others."""

    multiply: float
    copy: float
    others: float


@dataclass(frozen=True)
class StageClocks:
    """Clocks of a multiprocessor for one stage; all of these overlap."""

    tensor: float
    shared: float
    l2: float
    issue: float


@functools.cache
def warp_code(algorithm: Algorithm, direction: str, precision: str, vectors: tuple[int, int], arch: str) -> WarpCode:
    """The counts of a direction's plain kernel. Raises what `predict_time.machine_code_of` raises."""
    _, instructions = predict_time.machine_code_of(algorithm, direction, precision, vectors, arch)
    loop = machine_code.main_loop(instructions)
    copy = machine_code.main_loop(instructions, ("LDGSTS",))
    copy = copy or machine_code.main_loop(instructions, ("LDG",))  # in kernels that copy single numbers
    assert loop is not None, f"{algorithm.name} has no loop that multiplies"
    assert copy is not None, f"{algorithm.name} has no loop that copies"
    return WarpCode(loop.instructions, copy.instructions, len(instructions) - loop.instructions - copy.instructions)


def stage_clocks(algorithm: Algorithm, counted: WarpCode, model: Model, gpu: Gpu) -> StageClocks:
    m, n, depth = algorithm.block_m, algorithm.block_n, algorithm.block_k
    copied = 2 * (m + n) * depth
    # What a block loads itself; the other blocks of its cluster load the rest.
    loaded = 2 * (m // algorithm.cluster_across + n // algorithm.cluster_down) * depth
    read = m // 64 * 2 * (64 + n) * depth  # each product of 64 rows reads its rows and all columns
    slots = (_multiplying(algorithm) * counted.multiply + COPYING * counted.copy) / SCHEDULERS
    return StageClocks(
        tensor=m * n * depth / MULTIPLY_ADDS,
        shared=(read + copied) / SHARED,
        l2=loaded / (L2 / gpu.multiprocessors),
        issue=slots * model.rates.instruction,
    )


def _multiplying(algorithm: Algorithm) -> int:
    """Warps of a block that multiply."""
    return algorithm.threads // WARP - COPYING


def predict_launch(
    algorithm: Algorithm,
    counted: WarpCode,
    *,
    turns: int,
    stages: int,
    drained: bool,
    flops: float,
    moved: float,
    partials: float,
    model: Model,
    gpu: Gpu,
) -> Prediction:
    """The predicted time of a launch whose busiest multiprocessor computes `turns` tiles of `stages` stages each.
    drained: whether the ring runs empty after each tile, because the copying threads sum what they copied, as in
    wgrad without clusters. moved: the bytes that must pass through memory. partials: the bytes that the split-K
    reduction reads. The clocks of a stage overlap."""
    stage = stage_clocks(algorithm, counted, model, gpu)
    stored = EXECUTED * counted.others * _multiplying(algorithm) / SCHEDULERS * model.rates.instruction
    loop = stages * max(vars(stage).values())
    if algorithm.resident > 1:  # another block multiplies, but on the same schedulers
        exposed = stages * stage.issue + stored - loop
    else:
        multiplied = stages * max(stage.tensor, stage.shared, stage.issue)
        ahead = 0 if drained else min(algorithm.macros["STAGES"], stages) * stage.l2  # copied while a tile is stored
        exposed = max(multiplied + stored - loop, stored - ahead)
    cluster_syncs = 2 * CLUSTER_SYNC if algorithm.cluster > 1 else 0
    sequential = {
        "launch": model.rates.launch,
        "prologue": (turns if drained else 1) * (LATENCY + stage.l2) + cluster_syncs,
        "epilogue": stored + (turns - 1) * max(0, exposed),
    }
    overlapping = {name: turns * stages * clocks for name, clocks in vars(stage).items()}
    parts = {name: clocks / gpu.clock for name, clocks in (sequential | overlapping).items()}
    parts["reduction"] = partials / gpu.copy
    seconds = (sum(sequential.values()) + max(overlapping.values())) / gpu.clock + parts["reduction"]
    parts |= {"bytes": moved / gpu.copy, "ceiling": flops / gpu.matrix}
    return Prediction(max(seconds, parts["bytes"], parts["ceiling"]), parts, max(parts, key=parts.__getitem__))
