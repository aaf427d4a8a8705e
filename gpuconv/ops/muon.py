"""The step of Muon, which takes the same lists of parameters and state as the steps in `gpuconv.ops.optim`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.arguments import integer, learning_rate
from gpuconv.backends import backend_of
from gpuconv.dtypes import accumulation_dtype
from gpuconv.names import canonical
from gpuconv.newton_schulz import MATMUL_PRECISIONS, MOST_NEWTON_SCHULZ
from gpuconv.ops.expect import expect_tf32, expect_writable_lists
from gpuconv.ops.optim.expect import expect_momentum, expect_step
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
    precision: str = "full",
    ema: float = 0.999,
    tf32: bool = False,
) -> None:
    """v = momentum * v + g; param = param * sqrt(K) / |param| - lr * orthogonal(v). With nesterov,
    orthogonal(g + momentum * v) takes the place of orthogonal(v) (Jordan et al. 2024, "Muon"; the scaling of param
    comes from airbench).

    |param| is the root of the sum of squares, so the squared norms of the scaled filters have a mean of 1; a parameter
    of zeros is not scaled. orthogonal(x) divides x by |x| + 1e-7, then does `steps` Newton-Schulz steps,
    x = a x + (b x x^T + c (x x^T)^2) x with a, b, c = 3.4445, -4.7750, 2.0315. If x has more rows than columns, x^T
    takes its place in these steps. The steps bring the singular values near 1, not exactly to 1. With precision="full",
    everything is computed in the accumulation dtype. The other precisions let tensor cores multiply: "tf32" rounds the
    factors of the matrix products to TF32, and "bfloat16" stores x / |x|, x x^T, the polynomial and x in bfloat16, as
    the original does.

    Args:
        params: Arrays of rank 2 or more, taken as matrices (K, the rest), changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        velocities: v. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master
            or, without masters, of the parameter.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        momentum: In [0, 1].
        nesterov: Whether orthogonal(g + momentum * v) replaces orthogonal(v); needs a momentum above 0.
        steps: 0 to 100.
        precision: The precision of the products: "full" (the accumulation dtype), "tf32" (a 10-bit mantissa)
            or "bfloat16" (7 bits); for float64 parameters only "full".
        ema: The averages' decay, in [0, 1].
        tf32: The earlier name of precision="tf32".

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master; a parameter of rank below
            2; nesterov without momentum; a precision other than "full" for float64 parameters; tf32 with
            precision="bfloat16".
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, velocities=velocities),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    ema = expect_step(params, grads, masters, scaling, averages, ema, velocities=velocities)
    for index, param in enumerate(params):
        if len(param.shape) < 2:
            raise ValueError(f"muon_step takes params of rank 2 or more, received params[{index}] of {param.shape}")
    lr, momentum = learning_rate(lr, params), expect_momentum(momentum, nesterov)
    steps = integer("steps", steps, 0, MOST_NEWTON_SCHULZ)
    accumulated_in = [accumulation_dtype(master.dtype) for master in masters or params]
    precision = expect_precision(precision, tf32, accumulated_in)
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
        precision=precision,
        ema=ema,
    )


def expect_precision(precision: str, tf32: object, dtypes: Sequence[np.dtype]) -> str:
    """The name of a precision. dtypes: the accumulation dtypes of the parameters."""
    found = canonical("precision", precision, MATMUL_PRECISIONS)
    for dtype in dtypes:
        expect_tf32(tf32, dtype)
        if found != "full" and dtype != np.float32:
            raise TypeError(f"precision={found!r} multiplies float32 numbers, received {dtype.name} parameters")
    if tf32 and found == "bfloat16":
        raise ValueError("tf32=True is precision='tf32', received precision='bfloat16'; give one of them")
    return "tf32" if tf32 else found
