"""Muon. Lists of parameters and their state as in `gpuconv.ops.optim`, with one learning rate for all."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import integer, learning_rate, number
from gpuconv.backends import backend_of
from gpuconv.dtypes import accumulation_dtype
from gpuconv.newton_schulz import MOST_NEWTON_SCHULZ
from gpuconv.ops.expect import expect_tf32, expect_writable_lists
from gpuconv.ops.optim import expect_momentum, expect_step
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar

__all__ = ["muon_step"]


@op("muon.cu", changes="params velocities masters averages")
def muon_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array],
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    momentum: float = 0.0,
    nesterov: bool = False,
    steps: int = 5,
    tf32: bool = False,
    ema: float = 0.999,
) -> None:
    """v = momentum * v + g; param = param * sqrt(K) / |param| - lr * orthogonal(v), or with nesterov
    orthogonal(g + momentum * v) (Jordan et al. 2024, "Muon"; scaling each filter to a norm of 1 comes from airbench).

    |param| is the root of the sum of squares; a parameter of zeros is not scaled. orthogonal(x) divides x by
    |x| + 1e-7, then does `steps` Newton-Schulz steps on the smaller side, x = (a + b x x^T + c (x x^T)^2) x with
    a, b, c = 3.4445, -4.7750, 2.0315. These bring the singular values near 1, not exactly to 1. Everything is computed
    in the accumulation dtype; with tf32 the factors of these products are rounded to TF32, which tensor cores multiply.

    Args:
        params: Arrays of rank 2 or more, taken as matrices (K, the rest), changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        velocities: v. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master,
            if there is one.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale changed, or None. The gradients are multiplied by scaling[1]
            first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param, of the masters if there are any; each has the
            shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be an array of one element on the device.
        momentum: In [0, 1].
        nesterov: Take the second form; needs a momentum above 0.
        steps: 0 to 100.
        tf32: Multiply in TF32 (a 10-bit mantissa); not for float64 parameters.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, velocities=velocities),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    expect_step(params, grads, masters, scaling, averages, velocities=velocities)
    ema = number("ema", ema, 0.0, 1.0)
    for index, param in enumerate(params):
        if len(param.shape) < 2:
            raise ValueError(f"muon_step takes params of rank 2 or more, received params[{index}] of {param.shape}")
    lr, momentum = learning_rate(lr, params), expect_momentum(momentum, nesterov)
    steps = integer("steps", steps, 0, MOST_NEWTON_SCHULZ)
    for master in masters or params:
        expect_tf32(tf32, accumulation_dtype(master.dtype))
    expect_writable_lists(params=params, velocities=velocities, masters=masters, averages=averages)
    backend.muon.muon_step(
        params,
        grads,
        velocities,
        masters,
        scaling,
        averages,
        lr=lr,
        momentum=momentum,
        nesterov=bool(nesterov),
        steps=steps,
        tf32=bool(tf32),
        ema=ema,
    )
