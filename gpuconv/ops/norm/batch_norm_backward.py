"""The gradients of batch normalization, alone or next to a pool or a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from gpuconv.arguments import flag, integer
from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.conv.expect import expect_pool
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_activation,
    expect_any_float,
    expect_conv_algorithm,
    expect_disjoint,
    expect_float,
    expect_mask,
    expect_out,
    expect_same_dtype,
    expect_shape,
    expect_volume_shape,
    expect_writable,
)
from gpuconv.ops.norm.expect import expect_channel_vectors
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT, Padding, Size, Window

# The options of batch_norm_backward that belong to the convolution with the filters w, and their defaults.
_CONV_OPTIONS = ("stride", "padding", "dilation", "fit", "algo", "tf32")
_CONV_DEFAULTS = (1, 0, 1, "floor", "auto", False)


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
) -> tuple[Array, ...]:
    """With xhat = (x - mean) * inv_std: dbeta = sum dz, dgamma = sum dz * xhat over all axes but the last, and
    dx = gamma * inv_std * (dz - (dbeta + xhat * dgamma) / M) for M values per channel. With training=False the
    statistics are constants, so dx = gamma * inv_std * dz.

    dz is dy, or the gradient of the activation's input, or conv2d_dgrad(dy, w).
    With an activation, dy is the gradient of the activation's output. After an addend, the activation's input cannot be
    recomputed from x, so dz is computed from `saved`.
    With a mask, dx is passed on through the max pool that computed x: the result is the gradient of the pool's input.
    With w, dy is the gradient of the output of a convolution that read this norm's output, and dz is conv2d_dgrad(dy,
    w), rounded; the epilogue of conv2d_dgrad computes the two sums.

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
        input_shape: With a mask, the shape of the pool's input, (N, P, Q, K), the output of conv2d_batch_norm's
            convolution.
        groups: With a mask, the groups of conv2d_batch_norm's convolution; with w, the groups of the convolution that
            has the filters w.
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
        dx, dgamma and dbeta; with `saved` also the gradient of the addend, of x's shape and dtype. (After an addend
        without an activation there is no `saved`, and the gradient of the addend is dy.)

    Raises:
        ValueError: An activation with neither beta nor `saved`, `saved` without an activation, `saved` with a mask or
            w, accumulate=True without dgamma and dbeta, w with a mask, a mask without input_shape or the reverse,
            groups without w or a mask, or a convolution's other options without w.
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
        named = zip(_CONV_OPTIONS, (stride, padding, dilation, fit, algo, tf32), _CONV_DEFAULTS)
        changed = ", ".join(f"{name}={value!r}" for name, value, default in named if value != default)
        raise ValueError(f"{changed} needs w, the filters of the convolution that read the norm's output")
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
    outputs = expect_disjoint(out=out, dgamma=dgamma, dbeta=dbeta)
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
    **window: Unpack[Window],
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
    before = expect_volume_shape("input_shape", input_shape)
    if mask is None:
        raise ValueError(f"input_shape {input_shape} belongs to a pool: give its mask too")
    filters, groups = before[3], integer("groups", groups, 1)
    problem = Conv2dProblem.of(before, (filters, 1, 1, filters // groups), groups=groups)
    pooled = expect_pool(2, problem)
    if pooled != x.shape:
        raise ValueError(f"a 2 x 2 pool of input_shape {before} gives {pooled}, but x has shape {x.shape}")
    expect_mask(mask, problem, 2)
    expect_out(out, problem.y_shape, x.dtype)
    return problem
