"""The gradient of a convolution with respect to its filters."""

from __future__ import annotations

from typing import Unpack

from gpuconv.arguments import integer, pair
from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import forward_epilogue
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_bias_gradient,
    expect_conv_algorithm,
    expect_disjoint,
    expect_float,
    expect_out,
    expect_same_dtype,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window


@op("conv2d_wgrad.cu")
def conv2d_wgrad(
    dy: ArrayT,
    x: ArrayT,
    *,
    kernel_size: Size,
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
    db: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of conv2d with respect to w: dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k]
    * x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]. With groups, c counts the channels of filter
    k's group.

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        x: (N, H, W, C), of dy's dtype.
        kernel_size: (R, S), or a number for both.
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
        out: Receives dw; by default a new array.
        db: (K,); receives the bias gradient, the sum of dy (where the mask has a 1) over n, p, q; None does not compute
            it.
        accumulate: Add to out (and to db if it is given) instead of overwriting them.

    Returns:
        dw: (K, R, S, C // groups), of dy's dtype.

    Raises:
        ValueError, TypeError: As in conv2d_dgrad; also accumulate=True without out, and db where C is 0.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(mask=mask, out=out, db=db))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, epilogue, algo, tf32 = _check_conv2d_wgrad(
        dy, x, mask, out, db, kernel_size=kernel_size, pool=pool, algo=algo, tf32=tf32, accumulate=accumulate, **window
    )
    outputs = expect_disjoint(out=out, db=db)
    dy, x, mask = copy_if_overlapping(outputs, dy, x, mask)
    return backend.conv.conv2d_wgrad(
        dy, x, problem, epilogue, mask=mask, algo=algo, tf32=tf32, out=out, db=db, accumulate=accumulate
    )


@remembered
def _check_conv2d_wgrad(
    dy: Array,
    x: Array,
    mask: Array | None,
    out: Array | None,
    db: Array | None,
    *,
    kernel_size: object,
    pool: int,
    algo: object,
    tf32: object,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    x_shape, dy_shape = expect_float("x", x, "N H W C"), expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, x=x)
    w_shape = dy_shape[3], *pair("kernel_size", kernel_size, 1), x_shape[3] // integer("groups", window["groups"], 1)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    epilogue = forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.w_shape, x.dtype)
    expect_bias_gradient(db, problem.k, problem.w_shape[3], x.dtype)
    expect_accumulate(accumulate, out=out)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "wgrad")
    return problem, epilogue, algo, tf32
