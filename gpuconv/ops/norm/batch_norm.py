"""Batch normalization, forward."""

from __future__ import annotations

import math

from gpuconv.arguments import flag, number
from gpuconv.backends import backend_of
from gpuconv.ops.check_cache import remembered
from gpuconv.ops.expect import expect_activation, expect_any_float, expect_disjoint, expect_out, expect_writable
from gpuconv.ops.norm.expect import expect_addend, expect_channel_vectors
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT


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
) -> tuple[ArrayT, ArrayT, ArrayT]:
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
    training = flag("training", training)
    _check_batch_norm(x, gamma, beta, running_mean, running_var, addend, out, training=training)
    momentum, eps = number("momentum", momentum, 0.0, 1.0), number("eps", eps, 0.0, used_with=[x])
    activation = expect_activation(activation)
    if training:
        expect_writable(running_mean=running_mean, running_var=running_var)
        outputs = expect_disjoint(running_mean=running_mean, running_var=running_var, out=out)
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
        training=training,
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
    training: bool,
) -> None:
    shape = expect_any_float("x", x, 2)
    expect_channel_vectors(x, shape[-1], gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    if training and math.prod(shape[:-1]) < 2:
        raise ValueError(f"batch statistics need more than one value for each channel, received shape {shape}")
    expect_addend(addend, shape, x.dtype)
    expect_out(out, shape, x.dtype)
