"""Batch normalisation by the statistics of a batch of which each rank has a part.

Only vectors of a value for each channel are exchanged: the means, then the variances about the mean of all, which do
not cancel as mean(x**2) - mean**2 would; in backward the two sums of the gradients.
"""

from __future__ import annotations

from typing import NamedTuple

from gpuconv import backends, ops
from gpuconv.layers.part import Sum, share_of
from gpuconv.types import Array


class Statistics(NamedTuple):
    """Of the whole batch: mean and biased variance of each channel, and 1 / sqrt(variance + eps)."""

    mean: Array
    var: Array
    inv_std: Array


def forward(x: Array, vectors: list[Array], momentum: float, eps: float, total: Sum) -> tuple[Array, Statistics]:
    """`gpuconv.ops.batch_norm` in training, with the statistics of all parts. vectors: its arguments after x."""
    gamma, beta, running_mean, running_var = vectors
    share, rows = share_of(x), x.size // x.shape[-1]
    own_mean, own_var = _zeros(gamma), _zeros(gamma)
    ops.batch_norm(x, gamma, beta, own_mean, own_var, training=True, momentum=1.0, eps=eps)
    mean = ops.scale(own_mean, factor=share)
    total(mean)
    away = ops.add(own_mean, ops.scale(mean, factor=-1.0))
    var = ops.add(ops.scale(own_var, factor=(rows - 1) / rows), times(away, away))
    ops.scale(var, factor=share, out=var)
    total(var)
    y, _, inv_std = ops.batch_norm(x, gamma, beta, mean, var, training=False, eps=eps)
    every = rows / share
    for running, batch in ((running_mean, mean), (running_var, ops.scale(var, factor=every / (every - 1)))):
        ops.scale(running, factor=1 - momentum, out=running)
        ops.add(running, ops.scale(batch, factor=momentum), out=running)
    return y, Statistics(mean, var, inv_std)


def backward(
    dy: Array, x: Array, gamma: Array, statistics: Statistics, eps: float, total: Sum
) -> tuple[Array, Array, Array]:
    """dx, and the gradients of gamma and beta by this part alone, as of `gpuconv.ops.batch_norm_backward`.

    dx = gamma inv_std (dy - (dbeta + xhat dgamma) / m), with dgamma and dbeta of all parts, weighted by their shares,
    and m this part's values of a channel: the loss of a part is the mean over its own samples.
    """
    mean, var, inv_std = statistics
    share, rows = share_of(x), x.size // x.shape[-1]
    dx, dgamma, dbeta = ops.batch_norm_backward(dy, x, gamma, mean, inv_std, training=False)
    slope, shift = times(gamma, inv_std), times(gamma, inv_std)
    for factor, own in ((slope, dgamma), (shift, dbeta)):
        whole = ops.scale(own, factor=share)
        total(whole)
        times(factor, ops.scale(whole, factor=-1.0 / rows), out=factor)
    # What the statistics add to dx is a multiple of xhat, and a constant, for each channel.
    more, _, _ = ops.batch_norm(x, slope, shift, mean, var, training=False, eps=eps)
    return ops.add(dx, more, out=dx), dgamma, dbeta


def times(a: Array, b: Array, out: Array | None = None) -> Array:
    """The product of two vectors: batch norm with a weight, and nothing else."""
    zeros = _zeros(a)
    ones = ops.batch_norm(zeros[None], zeros, zeros, zeros, zeros, training=False, eps=1.0)[2]
    product = _zeros(a) if out is None else out
    ops.batch_norm(a[None], b, zeros, zeros, ones, training=False, eps=0.0, out=product[None])
    return product


def _zeros(like: Array) -> Array:
    made: Array = backends.zeros(like.shape, like.dtype, backends.device_of(like))
    return made
