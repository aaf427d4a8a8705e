"""The step of SGD, with or without momentum."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import learning_rate
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable_lists
from gpuconv.ops.optim.expect import expect_momentum, expect_step, expect_weight_decay
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar


@op("optimizer.cu", changes="params velocities masters averages")
def sgd_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array] | None = None,
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Sequence[float] = 0.0,
    ema: float = 0.999,
) -> None:
    """v = momentum * v + g; param -= lr * v, or lr * (g + momentum * v) with nesterov (PyTorch's form).

    Args:
        params: Arrays of any shapes and float dtypes, changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        velocities: v. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master
            or, without masters, of the parameter. None without momentum.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        momentum: In [0, 1].
        nesterov: Subtract lr * (g + momentum * v), not lr * v; needs a momentum above 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master; momentum
            without velocities; nesterov without momentum.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads),
        optional_lists=dict(velocities=velocities, masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    momentum = expect_momentum(momentum, nesterov)
    if velocities is None and momentum:
        raise ValueError(f"momentum {momentum} needs velocities, which were not given")
    states = {} if velocities is None else {"velocities": velocities}
    ema = expect_step(params, grads, masters, scaling, averages, ema, **states)
    lr = learning_rate(lr, params)
    decay = expect_weight_decay(weight_decay, params)
    expect_writable_lists(params=params, velocities=velocities, masters=masters, averages=averages)
    backend.optim.sgd_step(
        params,
        grads,
        velocities,
        masters,
        scaling,
        averages,
        lr=lr,
        momentum=momentum,
        nesterov=bool(nesterov),
        weight_decay=decay,
        ema=ema,
    )
