"""A convolution and the batch normalization of its output in one call."""

from __future__ import annotations

import math
from typing import Unpack

from gpuconv.arguments import number
from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import expect_pool, forward_problem
from gpuconv.ops.expect import expect_activation, expect_conv_algorithm, expect_disjoint, expect_out, expect_writable
from gpuconv.ops.norm.expect import expect_addend, expect_channel_vectors
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window


@op("conv2d_fprop.cu", changes="running_mean running_var")
def conv2d_batch_norm(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    fit: str = "floor",
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
    addend: ArrayT | None = None,
    pool: int = 1,
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
) -> tuple[Array, ...]:
    """batch_norm(conv2d(x, w, bias), training=True) in one call; the convolution computes the statistics. With pool=2,
    a max_pool2d of 2 x 2 windows at stride 2 comes between the two; it drops an odd last row and column.

    Args:
        x: (N, H, W, C), any float dtype.
        w: (K, R, S, C // groups), of x's dtype.
        bias: (K,), of x's dtype; None adds nothing.
        gamma: (K,), as in batch_norm.
        beta: (K,), as in batch_norm.
        running_mean: (K,), changed in place.
        running_var: (K,), changed in place.
        stride: As in conv2d.
        padding: As in conv2d.
        dilation: As in conv2d.
        groups: As in conv2d.
        fit: As in conv2d.
        momentum: As in batch_norm.
        eps: As in batch_norm.
        activation: As in batch_norm.
        addend: As in batch_norm, of the shape of y.
        pool: 1, or 2 for the max pooling.
        algo: An algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the device
            choose, as does an algorithm without a kernel for this direction.
        tf32: Multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives y.

    Returns:
        Four arrays: y; the input of batch_norm, which is the output of conv2d or of the pool; the mean; inv_std.
        batch_norm_backward takes the last three. With pool=2 there is a fifth: the mask that conv2d_relu returns with
        activation=None, which the gradients of conv2d take.

    Raises:
        ValueError, TypeError: As in conv2d and batch_norm; also another pool, and pool=2 where conv2d returns maps
            smaller than 2 x 2.
    """
    backend = backend_of(
        x=x,
        w=w,
        gamma=gamma,
        beta=beta,
        running_mean=running_mean,
        running_var=running_var,
        optional=dict(bias=bias, addend=addend, out=out),
    )
    conv = _check_conv2d_batch_norm(
        x,
        w,
        bias,
        gamma,
        beta,
        running_mean,
        running_var,
        addend,
        out,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        fit=fit,
        pool=pool,
        algo=algo,
        tf32=tf32,
    )
    momentum, eps = number("momentum", momentum, 0.0, 1.0), number("eps", eps, 0.0, used_with=[x])
    activation = expect_activation(activation)
    outputs = expect_disjoint(running_mean=running_mean, running_var=running_var, out=out)
    x, w, bias, gamma, beta, addend = copy_if_overlapping(outputs, x, w, bias, gamma, beta, addend)
    return backend.norm.conv2d_batch_norm(
        x,
        w,
        bias,
        gamma,
        beta,
        running_mean,
        running_var,
        conv,
        momentum=momentum,
        eps=eps,
        activation=activation,
        addend=addend,
        out=out,
    )


@remembered
def _check_conv2d_batch_norm(
    x: Array,
    w: Array,
    bias: Array | None,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    addend: Array | None,
    out: Array | None,
    *,
    pool: int,
    algo: object,
    tf32: object,
    **window: Unpack[Window],
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    problem = forward_problem(x, w, bias, **window)
    expect_channel_vectors(x, problem.k, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    shape = expect_pool(pool, problem)
    if math.prod(shape[:3]) < 2:
        raise ValueError(f"batch statistics need more than one value for each filter, received maps of {shape}")
    expect_addend(addend, shape, x.dtype)
    expect_out(out, shape, x.dtype)
    expect_writable(running_mean=running_mean, running_var=running_var)
    statistics = Epilogue.of(pool=int(pool), masked=pool == 2, moments=True)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, statistics, "fprop")
    return problem, statistics, algo, tf32
