"""The predicted time of a convolution on tensor cores, under the plan that the launcher would take."""

from __future__ import annotations

import functools
import re

from gpuconv import algorithms
from gpuconv.backends.cuda import gemm, predict
from gpuconv.backends.cuda.conv import implicit_gemm, plans
from gpuconv.backends.cuda.launch import ceil_div
from gpuconv.backends.cuda.predict import GPUS, Gpu, Model, Prediction
from gpuconv.backends.cuda.report import Line
from gpuconv.cases import ConvCase
from gpuconv.dtypes import accumulation_dtype, as_dtype

REFERENCE = ConvCase(128, 16, 16, 128, 128, (3, 3), padding=((1, 1), (1, 1)))  # of the report's column
REFERENCE_GPU = GPUS["h200"]


def product_of(case: ConvCase, direction: str) -> tuple[int, int, int, int]:
    """Rows, columns and depth of the product that a direction is, and how many there are of it."""
    return implicit_gemm(f"conv2d_{direction}", case.x_shape, case.k, case.kernel_size, **case.options)


def convolution(
    case: ConvCase, direction: str, arithmetic: str, algo: str, moved: float, model: Model, gpu: Gpu
) -> tuple[str, Prediction] | None:
    """The algorithm that a direction takes under `algo`, and its predicted time; None where the model has no terms.

    moved: the bytes that must pass through memory.
    """
    if arithmetic not in ("float16", "bfloat16"):
        return None
    dtype = as_dtype(arithmetic)
    found = plans("emulated", case.x_shape, case.k, case.kernel_size, **case.options, dtype=dtype, algo=algo)
    if found is None or found[direction].algorithm.family != "mma":
        return None
    plan, algorithm = found[direction], found[direction].algorithm
    vectors = gemm.width(case.c // case.groups, dtype), gemm.width(case.k // case.groups, dtype)
    kernel = predict.compiled(algorithm, direction, arithmetic, vectors, gpu.arch)
    rows, columns, _, count = product_of(case, direction)
    asked = predict.terms(
        kernel.loop,
        blocks=plan.blocks * plan.splits,
        tiles_of_depth=ceil_div(plan.depth_per_split, algorithm.block_k),
        threads=algorithm.threads,
        resident=predict.resident_blocks(gpu.arch, kernel.registers, kernel.shared + plan.shared, algorithm.threads),
        reduction=0,
        multiprocessors=gpu.multiprocessors,
    )
    partials = 0 if plan.splits == 1 else plan.splits * rows * columns * count * accumulation_dtype(dtype).itemsize
    return algorithm.name, model.predict(asked, gpu, moved, partials)


@functools.cache
def _model() -> Model:
    return Model.load()


def of_line(line: Line) -> float | None:
    """Seconds of REFERENCE on REFERENCE_GPU by a kernel of the report; None where the model has no terms."""
    direction = re.fullmatch(r"conv2d_(fprop|dgrad|wgrad)_mma", line.kernel)
    defines = dict(line.variant.defines)
    if direction is None or line.arch != REFERENCE_GPU.arch or defines["DTYPE"] not in ("float16", "bfloat16"):
        return None
    algo = algorithms.of_launch(line.kernel, defines)
    assert algo is not None, f"{line.kernel} is a product"
    case, size = REFERENCE, as_dtype(defines["DTYPE"]).itemsize
    moved = size * (case.n * case.h * case.w * (case.c + case.k) + case.k * 9 * case.c)
    found = convolution(case, direction[1], defines["DTYPE"], algo, moved, _model(), REFERENCE_GPU)
    return found[1].seconds if found else None
