"""Convolutions, alone and fused with other ops, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv.activations import ACTIVATIONS, SAVE_INPUT
from gpuconv.problems import Conv2dProblem
from gpuconv.verify.cases.case import Arguments, Case, Make, normal
from gpuconv.verify.cases.norms import norm, norm_backward
from gpuconv.verify.conv_problems import ODD, REAL, TINY, conv

FEW_CHANNELS_256X64 = "few_channels-256x64"  # for inputs of few channels; it does not compute in float64
FILTERS_OF_FEW_CHANNELS = "mma-64x32"  # computes the filter gradient for such inputs on tensor cores


def _random_convolution(rng: np.random.Generator) -> Conv2dProblem:
    def pair(low: int, high: int) -> tuple[int, int]:
        return int(rng.integers(low, high)), int(rng.integers(low, high))

    groups, kernel, dilation = int(rng.choice([1, 1, 1, 2, 3])), pair(1, 5), pair(1, 4)
    h, w = (d * (k - 1) + 1 + int(rng.integers(0, 8)) for d, k in zip(dilation, kernel))
    n, c, k = (int(rng.integers(1, high)) for high in (4, 9, 9))
    stride, padding = pair(1, 4), (pair(0, 3), pair(0, 3))
    return conv(
        n,
        h,
        w,
        groups * c,
        groups * k,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        fit=str(rng.choice(["floor", "cover"])),
    )


def convolution_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    """The index of a problem decides which cases it has, and with which options; all combinations would be too many."""
    tiers = {"tiny": TINY, "odd": ODD, "real": REAL, "random": [_random_convolution(rng) for _ in range(count)]}
    activations = [None, *ACTIVATIONS]
    for tier, problems in tiers.items():
        for index, problem in enumerate(problems):
            bias, activation = index % 2 == 0, activations[index % len(activations)]
            yield Case("conv2d", tier, str(problem), _fprop(problem, bias, activation))
            yield Case("conv2d_dgrad", tier, str(problem), _dgrad(problem))
            yield Case("conv2d_wgrad", tier, str(problem), _wgrad(problem))
            if problem.n * problem.p * problem.q > 1:
                addend = index % 4 == 1
                name = f"{problem} norm {activation}{', addend' if addend else ''}"
                yield Case("conv2d_batch_norm", tier, name, _conv_norm(problem, bias, activation, addend))
            if index % 2 == 0 or index % 7 == 1:
                name = f"below {problem} {activation}"
                yield Case("batch_norm_backward", tier, name, _norm_below(problem, index % 3 != 2, activation))
            pools = min(problem.p, problem.q) > 1
            if pools and problem.n * (problem.p // 2) * (problem.q // 2) > 1:
                name = f"{problem} pool norm {activation}"
                yield Case("conv2d_batch_norm", tier, name, _conv_norm(problem, bias, activation, pool=2))
            if pools and index % 3 == 1:
                yield Case("conv2d_relu", tier, f"{problem} pool", _relu(problem, bias, 2, None))
                name = f"before the pool of {problem} {activation}"
                yield Case("batch_norm_backward", tier, name, _unpooled(problem, index % 2 == 0, activation))
            pool = 2 if pools and index % 3 else 1
            name = f"{problem} relu{' pool' if pool == 2 else ''}"
            yield Case("conv2d_relu", tier, name, _relu(problem, bias, pool))
            yield Case("conv2d_dgrad", tier, name, _under_mask(problem, pool, _dgrad(problem)))
            yield Case("conv2d_wgrad", tier, name, _under_mask(problem, pool, _wgrad(problem)))
            if index % 2 == 0:
                saving = SAVE_INPUT[index // 2 % len(SAVE_INPUT)]
                yield Case("conv2d_relu", tier, f"{problem} {saving}", _relu(problem, bias, 1, saving))
            if index % 2:
                yield Case("conv2d_backward", tier, name, _under_mask(problem, pool, _backward(problem)))
            else:
                yield Case("conv2d_backward", tier, str(problem), _backward(problem))
            if index % 3 == 0:
                name = f"{problem} accumulated"
                yield Case("conv2d_dgrad", tier, name, _accumulating(problem, _dgrad(problem, accumulate=True)))
                yield Case(
                    "conv2d_backward", tier, name, _accumulating(problem, _backward(problem, accumulate_dx=True))
                )
            if index % 4 == 2:
                name = f"{problem} tf32"
                yield Case("conv2d", tier, name, _fprop(problem, bias, activation, tf32=True), ("float32",))
                yield Case("conv2d_dgrad", tier, name, _dgrad(problem, tf32=True), ("float32",))
                yield Case("conv2d_wgrad", tier, name, _wgrad(problem, tf32=True), ("float32",))
                yield Case("conv2d_backward", tier, name, _backward(problem, tf32=True), ("float32",))
                below = _norm_below(problem, True, activation, tf32=True)
                yield Case("batch_norm_backward", tier, f"below {name} {activation}", below, ("float32",))
            yield from _few_channels_cases(tier, index, problem, bias, activation)


def _few_channels_cases(
    tier: str, index: int, problem: Conv2dProblem, bias: bool, activation: str | None
) -> Iterator[Case]:
    """Cases that name the algorithm for few channels, where it applies; "auto" takes it only for large problems."""
    if not problem.few_channels:
        return
    pool = 2 if min(problem.p, problem.q) > 1 and index % 2 else 1
    made = {
        "conv2d": _fprop(problem, bias, activation, algo=FEW_CHANNELS_256X64),
        "conv2d_relu": _relu(problem, bias, pool, algo=FEW_CHANNELS_256X64),
    }
    if index % 3 == 0 and problem.n * problem.pooled_shape(pool)[1] * problem.pooled_shape(pool)[2] > 1:
        made["conv2d_batch_norm"] = _conv_norm(problem, bias, activation, pool=pool, algo=FEW_CHANNELS_256X64)
    for op, make in made.items():
        yield Case(op, tier, f"{problem} few channels", make, ("float32", "float16", "bfloat16"))
    gradient = _wgrad(problem, algo=FILTERS_OF_FEW_CHANNELS)
    yield Case("conv2d_wgrad", tier, f"{problem} few channels", gradient, ("float16", "bfloat16"))
    gelu = _relu(problem, bias, 1, "gelu", algo=FEW_CHANNELS_256X64)
    yield Case("conv2d_relu", tier, f"{problem} few channels gelu", gelu, ("float32", "float16", "bfloat16"))
    tf32 = _fprop(problem, bias, activation, algo=FEW_CHANNELS_256X64, tf32=True)
    yield Case("conv2d", tier, f"{problem} few channels tf32", tf32, ("float32",))
    tf32 = _wgrad(problem, algo=FILTERS_OF_FEW_CHANNELS, tf32=True)
    yield Case("conv2d_wgrad", tier, f"{problem} few channels tf32", tf32, ("float32",))


def _fprop(problem: Conv2dProblem, bias: bool, activation: str | None, **more: object) -> Make:
    options = problem.window | {"activation": activation} | more

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        x, w = normal(rng, problem.x_shape, dtype), normal(rng, problem.w_shape, dtype)
        return [x, w, normal(rng, problem.k, dtype) if bias else None], options

    return make


def _dgrad(problem: Conv2dProblem, **more: object) -> Make:
    options = problem.window | {"input_shape": problem.x_shape} | more
    return lambda rng, dtype: ([normal(rng, problem.y_shape, dtype), normal(rng, problem.w_shape, dtype)], options)


def _wgrad(problem: Conv2dProblem, **more: object) -> Make:
    options = problem.window | {"kernel_size": problem.kernel_size} | more
    return lambda rng, dtype: ([normal(rng, problem.y_shape, dtype), normal(rng, problem.x_shape, dtype)], options)


def _backward(problem: Conv2dProblem, **more: object) -> Make:
    shapes_of_all = (problem.y_shape, problem.x_shape, problem.w_shape)
    options = problem.window | more
    return lambda rng, dtype: ([normal(rng, shape, dtype) for shape in shapes_of_all], options)


def _relu(problem: Conv2dProblem, bias: bool, pool: int, activation: str | None = "relu", **more: object) -> Make:
    return _fprop(problem, bias, activation, pool=pool, **more)


def _conv_norm(problem: Conv2dProblem, bias: bool, activation: str | None, addend: bool = False, **more: Any) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        arrays, options = _fprop(problem, bias, activation, **more)(rng, dtype)
        (_, *vectors), _ = norm(1, problem.k, True)(rng, dtype)
        if addend:
            options = options | {"addend": normal(rng, problem.pooled_shape(int(more.get("pool", 1))), dtype)}
        return [*arrays, *vectors], options

    return make


def _unpooled(problem: Conv2dProblem, training: bool, activation: str | None) -> Make:
    """batch_norm_backward with a random mask of the shape that conv2d_batch_norm returns with pool=2."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (dy, x, *vectors), options = norm_backward(1, problem.k, training, activation)(rng, dtype)
        dy, x = (normal(rng, problem.pooled_shape(2), dtype) for _ in (dy, x))
        mask = rng.integers(0, 256, problem.mask_shape(2), np.uint8)
        return [dy, x, *vectors], options | dict(mask=mask, input_shape=problem.y_shape, groups=problem.groups)

    return make


def _norm_below(problem: Conv2dProblem, training: bool, activation: str | None, **more: object) -> Make:
    """batch_norm_backward of a norm whose output the convolution reads."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (_, x, *vectors), options = norm_backward(1, problem.c, training, activation)(rng, dtype)
        (dy, w), _ = _dgrad(problem)(rng, dtype)
        return [dy, normal(rng, problem.x_shape, x.dtype), *vectors], options | problem.window | {"w": w} | more

    return make


def _accumulating(problem: Conv2dProblem, gradient: Make) -> Make:
    """The arguments of `gradient`, with an `out` to which it adds dx."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        arrays, options = gradient(rng, dtype)
        return arrays, options | {"out": normal(rng, problem.x_shape, dtype)}

    return make


def _under_mask(problem: Conv2dProblem, pool: int, gradient: Make) -> Make:
    """The arguments of `gradient` with a mask that conv2d_relu returned, and a dy of the shape of conv2d_relu's y."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        from gpuconv import ops

        arrays, relu = _relu(problem, False, pool)(rng, np.dtype(np.float32))
        y, mask = ops.conv2d_relu(*arrays, **relu)
        (_, *others), options = gradient(rng, dtype)
        return [normal(rng, y.shape, dtype), *others], options | {"mask": mask, "pool": pool}

    return make
