"""Batch and group normalization. `out` may be an input itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from gpuconv.arguments import flag, integer, number
from gpuconv.backends import backend_of
from gpuconv.ops.conv import forward_problem
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_activation,
    expect_any_float,
    expect_apart,
    expect_channel_vectors,
    expect_conv_algorithm,
    expect_float,
    expect_mask,
    expect_out,
    expect_same_dtype,
    expect_shape,
    expect_volume_shape,
    expect_writable,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.ops.remembered import remembered
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Shape, Size, Window

_CONV_DEFAULTS = 1, 0, 1, "floor", "auto", False  # batch_norm_backward's stride, padding, dilation, fit, algo, tf32

__all__ = ["batch_norm", "batch_norm_backward", "conv2d_batch_norm", "group_norm", "group_norm_backward"]


@op("batch_norm.cu", changes="running_mean running_var")
def batch_norm(
    x: ArrayT,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
    addend: ArrayT | None = None,
    out: ArrayT | None = None,
) -> tuple[ArrayT, Any, Any]:
    """y = act(gamma * (x - mean) * inv_std + beta [+ addend]) for each channel, inv_std = 1 / sqrt(var + eps)
    (Ioffe and Szegedy 2015).

    training=True computes mean and (biased) variance over all axes but the last, and updates the running statistics in
    place: running = (1 - momentum) * running + momentum * batch, with the unbiased variance. training=False uses
    the running statistics.

    Args:
        x: (..., C), of rank 2 or more, any float dtype.
        gamma: (C,), in x's accumulation dtype.
        beta: (C,), as gamma.
        running_mean: (C,), as gamma; changed in place by training.
        running_var: (C,), as running_mean.
        training: Whether to use the statistics of x instead of the running ones.
        momentum: The batch's share of the running statistics, in [0, 1].
        eps: At least 0.
        activation: None, or the name of an activation op, applied with its defaults to the value rounded to x's
            dtype.
        addend: Of x's shape and dtype, such as the shortcut of a residual block. It is added to the value rounded to
            x's dtype, and the sum is rounded again.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype, and the mean and inv_std used, (C,) in the accumulation dtype.

    Raises:
        ValueError: Training on fewer than two values for each channel.
    """
    backend = backend_of(
        x=x,
        gamma=gamma,
        beta=beta,
        running_mean=running_mean,
        running_var=running_var,
        optional=dict(addend=addend, out=out),
    )
    _check_batch_norm(x, gamma, beta, running_mean, running_var, addend, out, training=training)
    momentum, eps = number("momentum", momentum, 0.0, 1.0), number("eps", eps, 0.0, used_with=[x])
    activation = expect_activation(activation)
    if training:
        expect_writable(running_mean=running_mean, running_var=running_var)
        outputs = expect_apart(running_mean=running_mean, running_var=running_var, out=out)
        x, gamma, beta = copy_if_overlapping(outputs, x, gamma, beta, in_place=out)
        addend = addend if addend is None else copy_if_overlapping(outputs, addend)[0]
    else:
        x, gamma, beta, running_mean, running_var = copy_if_overlapping(
            [out], x, gamma, beta, running_mean, running_var, in_place=True
        )
        addend = addend if addend is None else copy_if_overlapping([out], addend)[0]
    return backend.norm.batch_norm(
        x,
        gamma,
        beta,
        running_mean,
        running_var,
        training=flag("training", training),
        momentum=momentum,
        eps=eps,
        activation=activation,
        addend=addend,
        out=out,
    )


@remembered
def _check_batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    addend: Array | None,
    out: Array | None,
    *,
    training: object,
) -> None:
    shape = expect_any_float("x", x, 2)
    expect_channel_vectors(x, shape[-1], gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    if training and math.prod(shape[:-1]) < 2:
        raise ValueError(f"batch statistics need more than one value for each channel, received shape {shape}")
    _expect_addend(addend, shape, x.dtype)
    expect_out(out, shape, x.dtype)


def _expect_addend(addend: Array | None, shape: Shape, dtype: np.dtype) -> None:
    if addend is not None:
        expect_any_float("addend", addend, 2)
        expect_shape("addend", addend, shape, "the shape of the norm's output")
        if addend.dtype != dtype:
            raise TypeError(
                f"addend must have the dtype of the norm's output, {dtype.name}, received {addend.dtype.name}"
            )


@op("batch_norm.cu")
def batch_norm_backward(
    dy: ArrayT,
    x: ArrayT,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    *,
    beta: Array | None = None,
    activation: str | None = None,
    saved: ArrayT | None = None,
    training: bool = True,
    mask: Array | None = None,
    input_shape: Sequence[int] | None = None,
    groups: int = 1,
    w: ArrayT | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    fit: str = "floor",
    algo: str = "auto",
    tf32: bool = False,
    out: ArrayT | None = None,
    dgamma: Array | None = None,
    dbeta: Array | None = None,
    accumulate: bool = False,
) -> tuple[Any, ...]:
    """With xhat = (x - mean) * inv_std: dbeta = sum dy, dgamma = sum dy * xhat over all axes but the last, and
    dx = gamma * inv_std * (dy - (dbeta + xhat * dgamma) / M) for M values per channel. With training=False the
    statistics are constants, so dx = gamma * inv_std * dy.

    With an activation, dy is the gradient of its output, and in the formulas above dy is the gradient of its input.
    After an addend, that input cannot be recomputed from x, so the activation's gradient is taken from `saved`.
    With a mask, dx is passed on through the max pool that computed x: the result is the gradient of the pool's input.
    With w, dy is the gradient of the output of a convolution that read this norm's output. In the formulas above,
    conv2d_dgrad(dy, w), rounded, takes the place of dy; the epilogue of conv2d_dgrad computes the two sums.

    Args:
        dy: Of x's shape and dtype; with w the gradient of the convolution's output, (N, P, Q, K).
        x: What batch_norm was given.
        gamma: (C,), as in batch_norm.
        mean: What batch_norm returned.
        inv_std: What batch_norm returned.
        beta: As in batch_norm; needed with an activation, to recompute its input, unless `saved` is given.
        activation: As in batch_norm.
        saved: If batch_norm was given an addend and an activation: what the activation's own backward takes, its output
            or, for gelu, silu and hard_swish, its input. Not with a mask or w.
        training: As in batch_norm.
        mask: What conv2d_batch_norm returned with pool=2.
        input_shape: With a mask, the shape of the pool's input, the output of that op's convolution (N, P, Q, K).
        groups: With a mask or w, the groups of that convolution.
        w: The filters of a conv2d that read the norm's output, (K, R, S, C // groups) of x's dtype; then x is (N, H, W,
            C), and there is no mask.
        stride: With w, as in conv2d.
        padding: With w, as in conv2d.
        dilation: With w, as in conv2d.
        fit: With w, as in conv2d.
        algo: With w, an algorithm of `gpuconv.algorithms`, which changes at most the order of sums; "auto" lets the
            device choose.
        tf32: With w, multiply float32 arrays in TF32 (a 10-bit mantissa).
        out: Receives dx, which is always assigned; without a mask it may be an input itself.
        dgamma: Receives the gradient of gamma; by default a new array.
        dbeta: Receives the gradient of beta; by default a new array.
        accumulate: Add to dgamma and dbeta instead of overwriting them; dx uses only this call's sums.

    Returns:
        dx, dgamma and dbeta; with `saved` also the gradient of the addend, of x's shape and dtype (without an
        activation it is dy).

    Raises:
        ValueError: An activation without beta or saved, saved with a mask or w, accumulate=True without dgamma and
            dbeta, w with a mask, or a convolution's options without w.
    """
    backend = backend_of(
        dy=dy,
        x=x,
        gamma=gamma,
        mean=mean,
        inv_std=inv_std,
        optional=dict(beta=beta, saved=saved, mask=mask, w=w, out=out, dgamma=dgamma, dbeta=dbeta),
    )
    conv: tuple[Conv2dProblem, Epilogue, str, bool] | None = None
    if w is not None:
        conv = _check_next_conv(
            dy,
            x,
            w,
            mask,
            activation=activation,
            algo=algo,
            tf32=tf32,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            fit=fit,
        )
    elif (stride, padding, dilation, fit, algo, tf32) != _CONV_DEFAULTS:
        raise ValueError("stride, padding, dilation, fit, algo and tf32 belong to a convolution: give its w too")
    elif mask is None and groups != 1:
        raise ValueError(f"groups={groups} needs w, or the mask of a convolution's pool; received neither")
    if mask is not None or input_shape is not None:
        conv = _pooled_problem(x, mask, out, input_shape, groups), PLAIN, "auto", False
    activation = _check_batch_norm_backward(
        dy if w is None else x,
        x,
        gamma,
        mean,
        inv_std,
        beta,
        out if mask is None else None,
        dgamma,
        dbeta,
        activation=activation,
        needs_beta=saved is None,
        accumulate=accumulate,
    )
    outputs = expect_apart(out=out, dgamma=dgamma, dbeta=dbeta)
    dy, x, gamma, mean, inv_std, beta, mask, w = copy_if_overlapping(
        outputs, dy, x, gamma, mean, inv_std, beta, mask, w, in_place=out if mask is None else None
    )
    if saved is not None:
        _check_saved(saved, x, activation, mask, w)
        (saved,) = copy_if_overlapping(outputs, saved, in_place=out)
    return backend.norm.batch_norm_backward(
        dy,
        x,
        gamma,
        mean,
        inv_std,
        beta=beta,
        activation=activation,
        saved=saved,
        training=flag("training", training),
        mask=mask,
        w=w,
        conv=conv,
        out=out,
        dgamma=dgamma,
        dbeta=dbeta,
        accumulate=accumulate,
    )


@remembered
def _check_batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    beta: Array | None,
    out: Array | None,
    dgamma: Array | None,
    dbeta: Array | None,
    *,
    activation: str | None,
    needs_beta: bool,
    accumulate: bool,
) -> str | None:
    shape = expect_any_float("x", x, 2)
    expect_same_dtype(dy=dy, x=x)
    expect_shape("dy", dy, shape, "x's shape")
    vectors = dict(gamma=gamma, mean=mean, inv_std=inv_std, beta=beta, dgamma=dgamma, dbeta=dbeta)
    expect_channel_vectors(x, shape[-1], **vectors)
    if activation is not None and needs_beta and beta is None:
        raise ValueError(
            f"the gradient of activation={activation!r} needs beta, or saved after an addend; received neither"
        )
    activation = expect_activation(activation)
    expect_out(out, shape, x.dtype)
    expect_accumulate(accumulate, dgamma=dgamma, dbeta=dbeta)
    expect_writable(dgamma=dgamma, dbeta=dbeta)
    return activation


def _check_saved(saved: Array, x: Array, activation: str | None, mask: Array | None, w: Array | None) -> None:
    if activation is None:
        raise ValueError("saved belongs to the activation after an addend: give activation too")
    if mask is not None or w is not None:
        received = "w" if mask is None else "mask"
        raise ValueError(f"saved cannot be combined with a convolution (w) or a pool (mask), received {received}")
    expect_same_dtype(x=x, saved=saved)
    expect_shape("saved", saved, x.shape, "x's shape")


@remembered
def _check_next_conv(
    dy: Array,
    x: Array,
    w: Array,
    mask: Array | None,
    *,
    activation: str | None,
    algo: object,
    tf32: object,
    **window: Any,
) -> tuple[Conv2dProblem, Epilogue, str, bool]:
    """The convolution that read the norm's output, and how its dgrad is computed."""
    if mask is not None:
        raise ValueError("the gradient passes a convolution (w) or a pool (mask), received both w and a mask")
    w_shape, x_shape = expect_float("w", w, "K R S C/groups"), expect_float("x", x, "N H W C")
    expect_same_dtype(dy=dy, x=x, w=w)
    problem = Conv2dProblem.of(x_shape, w_shape, **window)
    expect_shape("dy", dy, problem.y_shape, "the convolution's output")
    sums = Epilogue.of(expect_activation(activation), norm_sums=True)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, sums, "dgrad")
    return problem, sums, algo, tf32


def _pooled_problem(
    x: Array, mask: Array | None, out: Array | None, input_shape: Sequence[int] | None, groups: int
) -> Conv2dProblem:
    """A convolution whose output has input_shape; x and the mask are the results of a 2 x 2 pool on that output."""
    if mask is None:
        raise ValueError(f"input_shape {input_shape} belongs to a pool: give its mask too")
    before = expect_volume_shape("input_shape", input_shape)
    filters, groups = before[3], integer("groups", groups, 1)
    problem = Conv2dProblem.of(before, (filters, 1, 1, filters // groups), groups=groups)
    pooled = problem.pooled_shape(2)
    if pooled != x.shape:
        raise ValueError(f"a 2 x 2 pool of input_shape {before} gives {pooled}, but x has shape {x.shape}")
    expect_mask(mask, problem, 2)
    expect_out(out, problem.y_shape, x.dtype)
    return problem


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
) -> tuple[Any, ...]:
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

    Returns: y, the input of batch_norm (the output of conv2d, or of the pool), and the mean and inv_std used;
        batch_norm_backward takes the last three. With pool=2 also the mask of conv2d_relu with activation=None, which
        the gradients of conv2d take.

    Raises:
        ValueError, TypeError: As in conv2d and batch_norm.
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
    outputs = expect_apart(running_mean=running_mean, running_var=running_var, out=out)
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
    shape = problem.pooled_shape(pool)
    if math.prod(shape[:3]) < 2:
        raise ValueError(f"batch statistics need more than one value for each filter, received maps of {shape}")
    _expect_addend(addend, shape, x.dtype)
    expect_out(out, shape, x.dtype)
    expect_writable(running_mean=running_mean, running_var=running_var)
    statistics = Epilogue.of(pool=int(pool), masked=pool == 2, moments=True)
    algo, tf32 = expect_conv_algorithm(algo, tf32, x.dtype, problem, statistics, "fprop")
    return problem, statistics, algo, tf32


@op("group_norm.cu")
def group_norm(
    x: ArrayT, gamma: Array, beta: Array, *, groups: int, eps: float = 1e-5, out: ArrayT | None = None
) -> tuple[ArrayT, Any, Any]:
    """y = gamma * (x - mean) * inv_std + beta, with the mean and variance of each image's groups of channels, over all
    axes but the first (Wu and He 2018). For a matrix and one group this is layer normalization (Ba et al. 2016).

    Args:
        x: (N, ..., C), of rank 2 or more, any float dtype.
        gamma: (C,), in x's accumulation dtype.
        beta: (C,), as gamma.
        groups: The number of groups of neighboring channels; it divides C.
        eps: Added to the variance, at least 0.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype, and mean and inv_std = 1 / sqrt(var + eps), (N, groups) in the accumulation dtype.

    Raises:
        ValueError: groups does not divide C, or the groups are empty.
    """
    backend = backend_of(x=x, gamma=gamma, beta=beta, optional=dict(out=out))
    groups = _check_group_norm(x, gamma, beta, out, groups=groups)
    eps = number("eps", eps, 0.0, used_with=[x])
    x, gamma, beta = copy_if_overlapping([out], x, gamma, beta, in_place=True)
    return backend.norm.group_norm(x, gamma, beta, groups=groups, eps=eps, out=out)


@remembered
def _check_group_norm(x: Array, gamma: Array, beta: Array, out: Array | None, *, groups: int) -> int:
    shape = expect_any_float("x", x, 2)
    expect_channel_vectors(x, shape[-1], gamma=gamma, beta=beta)
    groups = integer("groups", groups, 1)
    if shape[-1] % groups:
        raise ValueError(f"groups must divide the channels, received groups {groups}, {shape[-1]} channels")
    if shape[0] and not math.prod(shape[1:]):
        raise ValueError(f"the statistics of a group need at least one value, received shape {shape}")
    expect_out(out, shape, x.dtype)
    return groups


@op("group_norm.cu")
def group_norm_backward(
    dy: ArrayT,
    x: ArrayT,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    *,
    out: ArrayT | None = None,
    dgamma: Array | None = None,
    dbeta: Array | None = None,
    accumulate: bool = False,
) -> tuple[ArrayT, Any, Any]:
    """With xhat = (x - mean) * inv_std and g = gamma * dy: dbeta = sum dy, dgamma = sum dy * xhat over all axes but the
    last, and dx = inv_std * (g - mean(g) - xhat * mean(g * xhat)), with means over each image's groups.

    Args:
        dy: Of x's shape and dtype.
        x: What group_norm was given.
        gamma: (C,), as in group_norm.
        mean: What group_norm returned.
        inv_std: What group_norm returned.
        out: Receives dx, which is always assigned; may be an input itself.
        dgamma: Receives the gradient of gamma; by default a new array.
        dbeta: Receives the gradient of beta; by default a new array.
        accumulate: Add to dgamma and dbeta instead of overwriting them.

    Returns:
        dx, dgamma and dbeta.

    Raises:
        ValueError: accumulate=True without dgamma and dbeta.
    """
    backend = backend_of(
        dy=dy, x=x, gamma=gamma, mean=mean, inv_std=inv_std, optional=dict(out=out, dgamma=dgamma, dbeta=dbeta)
    )
    _check_group_norm_backward(dy, x, gamma, mean, inv_std, out, dgamma, dbeta, accumulate=accumulate)
    outputs = expect_apart(out=out, dgamma=dgamma, dbeta=dbeta)
    dy, x, gamma, mean, inv_std = copy_if_overlapping(outputs, dy, x, gamma, mean, inv_std, in_place=out)
    return backend.norm.group_norm_backward(
        dy, x, gamma, mean, inv_std, out=out, dgamma=dgamma, dbeta=dbeta, accumulate=accumulate
    )


@remembered
def _check_group_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    out: Array | None,
    dgamma: Array | None,
    dbeta: Array | None,
    *,
    accumulate: bool,
) -> None:
    shape = expect_any_float("x", x, 2)
    expect_same_dtype(dy=dy, x=x)
    expect_shape("dy", dy, shape, "x's shape")
    expect_channel_vectors(x, shape[-1], gamma=gamma, dgamma=dgamma, dbeta=dbeta)
    expect_same_dtype(gamma=gamma, mean=mean, inv_std=inv_std)
    groups = mean.shape[-1] if mean.ndim == 2 else 0
    if mean.shape[:1] != shape[:1] or groups < 1 or shape[-1] % groups:
        raise ValueError(f"mean must be (N, groups), as group_norm returns it, received shape {mean.shape}")
    expect_shape("inv_std", inv_std, mean.shape, "the mean's shape")
    expect_out(out, shape, x.dtype)
    expect_accumulate(accumulate, dgamma=dgamma, dbeta=dbeta)
    expect_writable(dgamma=dgamma, dbeta=dbeta)
