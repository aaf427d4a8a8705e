"""Checks that several convolution ops share."""

from __future__ import annotations

from typing import Unpack

from gpuconv.arguments import integer
from gpuconv.ops.expect import expect_bias, expect_float, expect_mask, expect_same_dtype, expect_shape
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, Window


def forward_problem(x: Array, w: Array, bias: Array | None, **window: Unpack[Window]) -> Conv2dProblem:
    """The problem of a forward pass, checked against its arrays."""
    x_shape, w_shape = expect_float("x", x, "N H W C"), expect_float("w", w, "K R S C/groups")
    expect_same_dtype(x=x, w=w, bias=bias)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    expect_bias(bias, problem.k)
    return problem


def expect_pool(pool: object, problem: Conv2dProblem) -> tuple[int, int, int, int]:
    """The shape of the output after a max pool of `pool` x `pool` windows, for a valid `pool`."""
    size = integer("pool", pool, 1)
    if size > 2:
        raise ValueError(f"pool must be 1 (none) or 2 (2 x 2 windows), received {pool}")
    if min(problem.p, problem.q) < size:
        raise ValueError(f"a pool of 2 x 2 windows needs maps of at least 2 x 2, received {problem.p} x {problem.q}")
    return problem.pooled_shape(size)


def forward_epilogue(dy: Array, problem: Conv2dProblem, mask: Array | None, pool: int) -> Epilogue:
    """The epilogue of the forward pass that belongs to dy. Raises if dy or the mask does not fit it."""
    shape = expect_pool(pool, problem)
    if mask is None:
        if pool != 1:
            raise ValueError(f"pool={pool} needs the mask of conv2d_relu or conv2d_batch_norm, received None")
        expect_shape("dy", dy, shape, "the convolution's output")
        return PLAIN
    expect_shape("dy", dy, shape, "the output of conv2d_relu or of conv2d_batch_norm's pool")
    expect_mask(mask, problem, pool)
    return Epilogue.of(pool=int(pool), masked=True)
