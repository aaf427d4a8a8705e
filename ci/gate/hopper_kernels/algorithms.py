"""The unproved algorithms of a direction: proves them on growing problems, times them, and says what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ci.gate.hopper_kernels import NOTHING
from ci.gate.hopper_kernels.printing import print_summary
from ci.gate.hopper_kernels.warpgroup import HALVES
from ci.gate.hopper_kernels.wrong_values import differences
from gpuconv.backends.cuda.gemm import plan, tuner, verdicts
from gpuconv.backends.cuda.gemm.compiled import kernel_of
from gpuconv.backends.cuda.gemm.plan import Plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops.conv import product_of
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.backends.cuda.runtime.kernel import Module
from gpuconv.backends.cuda.runtime.outputs import pack_width
from gpuconv.dtypes import as_dtype
from gpuconv.problems import DIRECTIONS, PLAIN, Conv2dProblem, Epilogue
from gpuconv.verify.algorithm_run import Form, Inputs, Question, run, run_on_device
from gpuconv.verify.conv_problems import conv


def check(name: str, device: str, small: bool) -> int:
    """Check every unproved algorithm of a direction on growing problems; returns the exit status."""
    gpu, failed, count, hung = tuner.gpu_or_emulated(device), 0, 0, set()
    for product in products(name, small):
        for candidate in plan.unproved_plans(product, capability_named(device)):
            algorithm = candidate.algorithm.name
            what = f"{algorithm} {name} {product.problem} {product.dtype} {product.epilogue}"
            if algorithm in hung:  # it would take the time limit again
                print(f"SKIP {what}", flush=True)
                continue
            found, count = verdicts.prove(product, candidate, gpu), count + 1
            failed += not found.proved
            hung |= {algorithm} if "did not answer" in found.reason else set()
            print(f"{'PASS' if found.proved else 'FAIL'} {what}")
            print(f"    {found}", flush=True)
            if found.proved:
                print(f"    {compare_times(product, candidate, device)}", flush=True)
            elif found.lasting and algorithm not in hung and "ended with" not in found.reason:
                print(*wrong_results(product, candidate, device), sep="\n", flush=True)
    if not count:
        print(f"no algorithm of {name} is to be proved")
        return NOTHING
    return print_summary(failed, count, f"proofs of {name}")


def products(name: str, small: bool) -> Iterator[Product]:
    """The products of a direction, smallest problem first."""
    for problem in problems(small):
        for dtype in ("bfloat16", "float32") if small else HALVES:
            for epilogue in epilogues(name, dtype, small):
                yield product_to_prove(name, problem, epilogue, dtype)


def product_to_prove(name: str, problem: Conv2dProblem, epilogue: Epilogue, dtype: str) -> Product:
    packs = [pack_width(as_dtype(dtype), count=each) for each in (problem.c, problem.k)]
    return product_of(name, problem, epilogue, as_dtype(dtype), False, packs[0], packs[1])


def problems(small: bool) -> list[Conv2dProblem]:
    """Problems of growing size: one tile, several tiles, odd sizes and strides, several tiles for each block, and
    layers of VGG."""
    first = [conv(1, 8, 8, 64, 64, 1), conv(2, 8, 8, 64, 64, 3, padding=1)]
    if small:
        return first[1:]
    more = [conv(3, 9, 7, 64, 72, 3, stride=2, padding=1), conv(2, 16, 16, 24, 64, 3, padding=1)]
    # Several tiles for each block: of fprop and dgrad, then of wgrad.
    more += [conv(9, 64, 64, 8, 64, 1), conv(1, 8, 8, 512, 512, 3, padding=1)]
    sizes = ((32, 64, 64), (16, 128, 128), (8, 256, 256), (4, 512, 512))
    return [*first, *more, *(conv(128, side, side, c, k, 3, padding=1) for side, c, k in sizes)]


def epilogues(name: str, dtype: str, small: bool) -> list[Epilogue]:
    """The epilogues to prove: several for fprop in bfloat16, otherwise only the plain one, because each needs another
    compiled kernel for each tile."""
    if name != "fprop" or dtype != "bfloat16" or small:
        return [PLAIN]
    return [PLAIN, Epilogue.of("relu", 1, True), Epilogue.of("relu", 2, True), Epilogue.of(None, 1, False, True)]


def compare_times(product: Product, candidate: Plan, device: str) -> str:
    """The times of the candidate, and of the proved algorithm that the cost model chooses, as text."""
    gpu = tuner.gpu_named(device)
    if gpu is None:
        return "no times on the emulated device"
    lines = []
    for each in (candidate, plan.plan(product, "auto", capability_named(device))):
        question = question_of(product, each, device)
        inputs = Inputs(question, "random")
        with verdicts.allow_unproved():
            call = functools.partial(run_on_device, question, each.algorithm.name, inputs, Form(), product.epilogue)
            call()
            seconds = min(gpu.seconds(call, 5) for _ in range(3)) / 5
        flops = 2.0 * product.m * product.n * product.k * product.batches
        lines.append(f"{each.algorithm.name} {1e6 * seconds:.1f} us, {flops / max(seconds, 1e-9) / 1e12:.0f} TFLOP/s")
    return "; ".join(lines)


def wrong_results(product: Product, candidate: Plan, device: str) -> list[str]:
    """The candidate's results that differ from the proved algorithm's for whole numbers, as lines of text."""
    question = question_of(product, candidate, device)
    inputs, proved = Inputs(question, "whole"), plan.plan(product, "auto", capability_named(device))
    with verdicts.allow_unproved():
        expected = run(question, proved.algorithm.name, inputs, Form(), product.epilogue)
        found = run(question, candidate.algorithm.name, inputs, Form(), product.epilogue)
    lines = [f"    tile {candidate.algorithm.block_m} x {candidate.algorithm.block_n}, split {candidate.split_k}"]
    for name in expected:
        if name != "moments" and expected[name].tobytes() != found[name].tobytes():
            lines += [f"    {name}, of shape {expected[name].shape}:", *differences(expected[name], found[name])]
    return lines


def question_of(product: Product, candidate: Plan, device: str) -> Question:
    direction = product.kernel.removeprefix("conv2d_")
    packs = (product.macros["VECTOR_C"], product.macros["VECTOR_K"])
    return Question(
        device,
        direction,
        product.problem,
        product.epilogue,
        product.dtype,
        product.tf32,
        packs,
        candidate.algorithm.name,
        "",
    )


def modules(capability: int = 90) -> Iterator[Module]:
    """The kernels that the checks run on a GPU of this compute capability, for a compilation in advance. They are those
    of the algorithms to prove and those of the proved algorithms. For its bounds, a proof also runs the proved
    algorithm without activation and moments."""
    for name in DIRECTIONS:
        for each in products(name, False):
            for candidate in plan.unproved_plans(each, capability):
                yield kernel_of(each, candidate).module
            bare = Epilogue.of(None, 2, masked=True) if each.epilogue.pool == 2 else PLAIN
            for used in (each, product_to_prove(name, each.problem, bare, each.dtype.name)):
                yield kernel_of(used, plan.plan(each, "auto", capability)).module
