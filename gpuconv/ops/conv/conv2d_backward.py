"""All gradients of a convolution in one call."""

from __future__ import annotations

from typing import Unpack

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


@op("conv2d_wgrad.cu")  # and conv2d_dgrad.cu
def conv2d_backward(
    dy: ArrayT,
    x: ArrayT,
    w: ArrayT,
    *,
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
    accumulate_dx: bool = False,
    dw: ArrayT | None = None,
    db: ArrayT | None = None,
    accumulate: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """All gradients of conv2d: conv2d_dgrad and conv2d_wgrad in one call, so that a backend may read dy only once.

    Args:
        dy: The gradient with respect to y, (N, P, Q, K); with pool=2 (N, P // 2, Q // 2, K).
        x: (N, H, W, C), of dy's dtype.
        w: (K, R, S, C // groups), of dy's dtype.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm in a direction for which it has no kernel.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        mask: The mask that conv2d_relu or conv2d_batch_norm returned. dy is then the gradient of conv2d_relu's output,
            or of the output of conv2d_batch_norm's pool, and passes only where the mask has a 1.
        pool: The `pool` of that op; 2 needs the mask.
        out: Receives dx; by default a new array.
        accumulate_dx: Add dx to out instead of overwriting it, as in conv2d_dgrad.
        dw: Receives the gradient of w; by default a new array.
        db: (K,); receives the bias gradient, the sum of dy (where the mask has a 1) over n, p, q; None does not compute
            it.
        accumulate: Add to dw (and to db if it is given) instead of overwriting them.

    Returns:
        dx and dw, of the shapes of x and w.

    Raises:
        ValueError, TypeError: As in conv2d_dgrad; also accumulate=True without dw, accumulate_dx=True without out,
            and db where C is 0.
    """
    backend = backend_of(dy=dy, x=x, w=w, optional=dict(mask=mask, out=out, dw=dw, db=db))
    window = Window(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    problem, epilogue, algos, tf32 = _check_conv2d_backward(
        dy,
        x,
        w,
        mask,
        out,
        dw,
        db,
        pool=pool,
        algo=algo,
        tf32=tf32,
        accumulate_dx=accumulate_dx,
        accumulate=accumulate,
        **window,
    )
    outputs = expect_disjoint(out=out, dw=dw, db=db)
    dy, x, w, mask = copy_if_overlapping(outputs, dy, x, w, mask)
    return backend.conv.conv2d_backward(
        dy,
        x,
        w,
        problem,
        epilogue,
        mask=mask,
        algos=algos,
        tf32=tf32,
        out=out,
        accumulate_dx=accumulate_dx,
        dw=dw,
        db=db,
        accumulate=accumulate,
    )


@remembered
def _check_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    mask: Array | None,
    out: Array | None,
    dw: Array | None,
    db: Array | None,
    *,
    pool: int,
    algo: object,
    tf32: object,
    accumulate_dx: bool,
    accumulate: bool,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, tuple[str, str], bool]:
    x_shape, w_shape = expect_float("x", x, "N H W C"), expect_float("w", w, "K R S C/groups")
    expect_float("dy", dy, "N P Q K")
    expect_same_dtype(dy=dy, x=x, w=w)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    epilogue = forward_epilogue(dy, problem, mask, pool)
    expect_out(out, problem.x_shape, x.dtype)
    expect_out(dw, problem.w_shape, w.dtype, "dw")
    expect_bias_gradient(db, problem.k, problem.w_shape[3], x.dtype)
    expect_accumulate(accumulate_dx, "accumulate_dx", out=out)
    expect_accumulate(accumulate, dw=dw)
    dgrad, uses_tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "dgrad")
    wgrad, _ = expect_conv_algorithm(algo, tf32, x.dtype, problem, epilogue, "wgrad")
    return problem, epilogue, (dgrad, wgrad), uses_tf32
