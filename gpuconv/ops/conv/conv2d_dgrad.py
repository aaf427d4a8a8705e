"""The gradient of a convolution with respect to its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import forward_epilogue
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_conv_algorithm,
    expect_float,
    expect_out,
    expect_same_dtype,
    expect_volume_shape,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window


@op("conv2d_dgrad.cu")
def conv2d_dgrad(
    dy: ArrayT,
    w: ArrayT,
    *,
    input_shape: Sequence[int],
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    mask: Array | None = None,
    pool: int = 1,
    out: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of conv2d with respect to x: dx[n, h, w, c] = sum of dy[n, p, q, k] * w[k, r, s, c] over all k and
    every (p, q, r, s) for which output (p, q) reads pixel (h, w) by tap (r, s). With groups, k runs over the filters of
    c's group, and the last index of w counts c within that group.

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        w: (K, R, S, C // groups), of dy's dtype.
        input_shape: x's shape, (N, H, W, C).
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        mask: The mask that conv2d_relu or conv2d_batch_norm returned. dy is then the gradient of conv2d_relu's output,
            or of the output of conv2d_batch_norm's pool, and passes only where the mask has a 1.
        pool: The `pool` of that op; 2 needs the mask.
        out: Receives the result and must have its shape and dtype; by default a new array.
        accumulate: Add to out instead of overwriting it; the sum is rounded once, after the addition.

    Returns:
        dx: (N, H, W, C), of dy's dtype.

    Raises:
        ValueError, TypeError: As in conv2d; also a dy or mask that is not of the shape that the forward op
            returned, a pool other than 1 and 2, pool=2 without a mask, and accumulate=True without out.
    """
    backend = backend_of(dy=dy, w=w, optional=dict(mask=mask, out=out))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, epilogue, algo, tf32 = _check_conv2d_dgrad(
        dy, w, mask, out, input_shape=input_shape, pool=pool, algo=algo, tf32=tf32, accumulate=accumulate, **window
    )
    dy, w, mask = copy_if_overlapping([out], dy, w, mask)
    return backend.conv.conv2d_dgrad(
        dy, w, problem, epilogue, mask=mask, algo=algo, tf32=tf32, out=out, accumulate=accumulate
    )


@remembered
def _check_conv2d_dgrad(
    dy: Array,
    w: Array,
    mask: Array | None,
    out: Array | None,
    *,
    input_shape: object,
    pool: int,
    algo: object,
    tf32: object,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    w_shape, x_shape = expect_float("w", w, "K R S C/groups"), expect_volume_shape("input_shape", input_shape)
    expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, w=w)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    epilogue = forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.x_shape, dy.dtype)
    expect_accumulate(accumulate, out=out)
    algo, tf32 = expect_conv_algorithm(algo, tf32, dy.dtype, problem, epilogue, "dgrad")
    return problem, epilogue, algo, tf32
