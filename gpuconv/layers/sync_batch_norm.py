"""Batch normalization with the statistics of a whole batch, of which each rank has one or several parts.

Only vectors with a value for each channel are summed over the parts: the means, then the variances around the overall
mean (mean(x**2) - mean**2 would lose digits), and in backward the two sums of the gradients. The parts of a rank are
added along a binary tree first, so the bits do not depend on which rank has which part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpuconv import ops
from gpuconv.layers.batch_parts import Sum, batch_of
from gpuconv.types import Array


class Statistics(NamedTuple):
    """The statistics of the whole batch: mean and biased variance of each channel, and 1 / sqrt(variance + eps)."""

    mean: Array
    var: Array
    inv_std: Array


def forward(
    parts: Sequence[Array], vectors: list[Array], momentum: float, eps: float, total: Sum
) -> tuple[list[Array], Statistics]:
    """`gpuconv.ops.batch_norm` of this rank's parts in training, with the statistics of all parts.

    Args:
        parts: Arrays, whose number is a power of two, or a PerPart of them.
        vectors: The op's arguments after x; the running statistics are updated in place.
        momentum, eps: As in the op.
        total: A function that sums an array over the ranks.

    Returns:
        The output of each part, and the statistics.

    Raises ValueError for a batch with one value per channel.
    """
    gamma, beta, running_mean, running_var = vectors
    shares, rows = _shares(parts), [_rows(x) for x in parts]
    values = batch_of(parts) * rows[0] // len(parts[0])  # per channel, in the whole batch
    if values < 2:
        raise ValueError(f"batch statistics need more than one value for each channel, received {values}")
    own = [_moments(x, gamma, beta, eps) for x in parts]
    mean = _weighted_sum([own_mean for own_mean, _ in own], shares, total)
    variances = []
    for (own_mean, own_var), count in zip(own, rows):
        difference = ops.add(own_mean, ops.scale(mean, factor=-1.0))
        variances.append(
            ops.add(ops.scale(own_var, factor=(count - 1) / count), multiply_vectors(difference, difference))
        )
    var = _weighted_sum(variances, shares, total)
    found = [ops.batch_norm(x, gamma, beta, mean, var, training=False, eps=eps) for x in parts]
    for running, batch in ((running_mean, mean), (running_var, ops.scale(var, factor=values / (values - 1)))):
        ops.scale(running, factor=1 - momentum, out=running)
        ops.add(running, ops.scale(batch, factor=momentum), out=running)
    return [y for y, _, _ in found], Statistics(mean, var, found[0][2])


def backward(
    gradients: Sequence[Array], parts: Sequence[Array], gamma: Array, statistics: Statistics, eps: float, total: Sum
) -> list[tuple[Array, Array, Array]]:
    """For each of this rank's parts: dx, and this part's gradients of gamma and beta, as in
    `gpuconv.ops.batch_norm_backward`.

    dx = gamma inv_std (dy - (dbeta + xhat dgamma) / m), with dgamma and dbeta summed over all parts, weighted by their
    shares. m is the number of this part's values per channel, because the loss of a part is the mean over its own
    samples.
    """
    mean, var, inv_std = statistics
    found = [ops.batch_norm_backward(dy, x, gamma, mean, inv_std, training=False) for dy, x in zip(gradients, parts)]
    shares, scale = _shares(parts), multiply_vectors(gamma, inv_std)
    sums = [_weighted_sum([each[which] for each in found], shares, total) for which in (1, 2)]  # dgamma, dbeta
    for x, (dx, _, _) in zip(parts, found):
        # The statistics add to dx, for each channel, a multiple of xhat and a constant.
        slope, shift = (multiply_vectors(scale, ops.scale(each, factor=-1.0 / _rows(x))) for each in sums)
        added, _, _ = ops.batch_norm(x, slope, shift, mean, var, training=False, eps=eps)
        ops.add(dx, added, out=dx)
    return [(dx, dgamma, dbeta) for dx, dgamma, dbeta in found]


def multiply_vectors(a: Array, b: Array) -> Array:
    """The product of two vectors, computed by a batch norm that has only a weight."""
    zeros, product = _zeros(a), _zeros(a)
    ones = ops.batch_norm(zeros[None], zeros, zeros, zeros, zeros, training=False, eps=1.0)[2]
    ops.batch_norm(a[None], b, zeros, zeros, ones, training=False, eps=0.0, out=product[None])
    return product


def _moments(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array]:
    """The mean and the unbiased variance of each channel of a part; a variance of 0 for a part with one value."""
    mean, var = _zeros(gamma), _zeros(gamma)
    if _rows(x) > 1:
        ops.batch_norm(x, gamma, beta, mean, var, training=True, momentum=1.0, eps=eps)
    else:  # dbeta is the sum of the argument dy, in the statistics' dtype
        _, _, mean = ops.batch_norm_backward(x, x, gamma, mean, var, training=False)
    return mean, var


def _weighted_sum(values: Sequence[Array], shares: Sequence[float], total: Sum) -> Array:
    """The sum over all parts of all ranks, weighted by their shares of the batch."""
    level = [ops.scale(value, factor=share) for value, share in zip(values, shares)]
    while len(level) > 1:
        level = [ops.add(one, other) for one, other in zip(level[::2], level[1::2])]
    total(level[0])
    return level[0]


def _shares(parts: Sequence[Array]) -> list[float]:
    batch = batch_of(parts)
    return [len(x) / batch for x in parts]


def _rows(x: Array) -> int:
    """The number of values per channel."""
    rows: int = x.size // x.shape[-1]
    return rows


def _zeros(like: Array) -> Array:
    return ops.scale(like, factor=0.0)  # a launch, unlike `backends.zeros`, so a graph can contain it on every device
