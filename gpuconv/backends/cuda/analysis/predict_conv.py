"""The predicted time of a convolution on tensor cores, under the plan that the launcher would take."""

from __future__ import annotations

import functools
import math
import re

from gpuconv import algorithms
from gpuconv.algorithms import UnservedError
from gpuconv.backends.cuda.analysis import predict_time, predict_wgmma
from gpuconv.backends.cuda.analysis.predict_time import GPUS, Gpu, Model, Prediction
from gpuconv.backends.cuda.analysis.resources import Line
from gpuconv.backends.cuda.ops.conv import plans
from gpuconv.backends.cuda.runtime.outputs import pack_width
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.integers import ceil_div
from gpuconv.problems import PLAIN, Conv2dProblem

REFERENCE = Conv2dProblem.of((128, 16, 16, 128), (128, 3, 3, 128), padding=1)  # the report shows its time
REFERENCE_GPU = GPUS["h200"]


def convolution(
    problem: Conv2dProblem, direction: str, precision: str, algo: str, moved: float, model: Model, gpu: Gpu
) -> tuple[str, Prediction] | None:
    """The algorithm that `algo` selects for a direction, and its predicted time; None if the model does not cover that
    algorithm or the precision. If `algo` does not serve the problem, "auto" selects the algorithm instead.

    moved: the bytes that must pass through memory.
    """
    if precision not in ("float16", "bfloat16"):
        return None
    dtype = as_dtype(precision)
    try:
        found = plans("emulated", problem, PLAIN, dtype, algo=algo)
    except UnservedError:
        found = plans("emulated", problem, PLAIN, dtype)
    if found is None or found[direction].algorithm.family not in ("mma", "wgmma", "wgmma_cluster"):
        return None
    plan, algorithm = found[direction], found[direction].algorithm
    vector_c, vector_k = (pack_width(dtype, count=count // problem.groups) for count in (problem.c, problem.k))
    m, n, _, batches = problem.implicit_gemm(direction)
    partials = 0 if plan.split_k == 1 else plan.split_k * m * n * batches * accumulation_dtype(dtype).itemsize
    if algorithm.family != "mma":
        return algorithm.name, predict_wgmma.predict_launch(
            algorithm,
            predict_wgmma.warp_code(algorithm, direction, precision, (vector_c, vector_k), gpu.arch),
            turns=ceil_div(plan.tiles, plan.blocks) * ceil_div(plan.blocks * plan.split_k, gpu.multiprocessors),
            drained=direction == "wgrad" and algorithm.cluster == 1,
            stages=ceil_div(plan.depth_per_split, algorithm.block_k),
            flops=2 * math.prod(problem.implicit_gemm("fprop")),  # without the padding of strided dgrad
            moved=moved,
            partials=partials,
            model=model,
            gpu=gpu,
        )
    kernel = predict_time.compiled(algorithm, direction, precision, (vector_c, vector_k), gpu.arch)
    smem_bytes = kernel.shared + plan.smem_bytes
    work = predict_time.terms(
        kernel.loop,
        blocks=plan.blocks * plan.split_k,
        tiles_of_depth=ceil_div(plan.depth_per_split, algorithm.block_k),
        threads=algorithm.threads,
        resident=predict_time.resident_blocks(gpu.arch, kernel.registers, smem_bytes, algorithm.threads),
        reduction=0,
        multiprocessors=gpu.multiprocessors,
    )
    return algorithm.name, model.predict(work, gpu, moved, partials)


@functools.cache
def _model() -> Model:
    return Model.load()


def of_line(line: Line) -> float | None:
    """The predicted seconds of REFERENCE on REFERENCE_GPU by the kernel of a line of the report. None unless this is an
    `mma` kernel in float16 or bfloat16, compiled for that GPU's architecture."""
    match = re.fullmatch(r"conv2d_(fprop|dgrad|wgrad)_mma", line.kernel)
    defines = dict(line.variant.defines)
    if match is None or line.arch != REFERENCE_GPU.arch or defines["DTYPE"] not in ("float16", "bfloat16"):
        return None
    algo = algorithms.algorithm_of_launch(line.kernel, defines)
    assert algo is not None, f"no algorithm has the macros of {line.kernel}"
    sizes = map(math.prod, (REFERENCE.x_shape, REFERENCE.w_shape, REFERENCE.y_shape))
    moved = as_dtype(defines["DTYPE"]).itemsize * sum(sizes)
    found = convolution(REFERENCE, match[1], defines["DTYPE"], algo, moved, _model(), REFERENCE_GPU)
    return found[1].seconds if found else None
