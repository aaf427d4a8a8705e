"""Group normalization and its gradients."""

from __future__ import annotations

import math

from gpuconv.arguments import integer, number
from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_any_float,
    expect_disjoint,
    expect_out,
    expect_same_dtype,
    expect_shape,
    expect_writable,
)
from gpuconv.ops.norm.expect import expect_channel_vectors
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT


@op("group_norm.cu")
def group_norm(
    x: ArrayT, gamma: Array, beta: Array, *, groups: int, eps: float = 1e-5, out: ArrayT | None = None
) -> tuple[ArrayT, ArrayT, ArrayT]:
    """y = gamma * (x - mean) * inv_std + beta, with the mean and variance over each group of channels of each image
    (Wu and He 2018). For a matrix and one group this is layer normalization (Ba et al. 2016).

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
        raise ValueError(f"groups must divide the channels, received {groups} groups and {shape[-1]} channels")
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
) -> tuple[ArrayT, Array, Array]:
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
        ValueError: A mean or inv_std of another shape than group_norm returns, or accumulate=True without dgamma and
            dbeta.
    """
    backend = backend_of(
        dy=dy, x=x, gamma=gamma, mean=mean, inv_std=inv_std, optional=dict(out=out, dgamma=dgamma, dbeta=dbeta)
    )
    _check_group_norm_backward(dy, x, gamma, mean, inv_std, out, dgamma, dbeta, accumulate=accumulate)
    outputs = expect_disjoint(out=out, dgamma=dgamma, dbeta=dbeta)
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
