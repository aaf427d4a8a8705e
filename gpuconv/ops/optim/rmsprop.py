"""The step of RMSProp."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import number
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable_lists
from gpuconv.ops.optim.expect import expect_rates, expect_step
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar


@op("optimizer.cu", changes="params square_averages masters averages")
def rmsprop_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    square_averages: Sequence[Array],
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float | Sequence[float] = 0.0,
    ema: float = 0.999,
) -> None:
    """s = alpha * s + (1 - alpha) * g**2; param -= lr * g / (sqrt(s) + eps) (Tieleman and Hinton 2012).

    Args:
        params: Arrays of any shapes and float dtypes, changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        square_averages: s. Changed in place, zero at first; each has the shape of its parameter and the dtype of its
            master or, without masters, of the parameter.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        alpha: In [0, 1].
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, square_averages=square_averages),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    ema = expect_step(params, grads, masters, scaling, averages, ema, square_averages=square_averages)
    lr, eps, decay = expect_rates(lr, eps, weight_decay, params)
    alpha = number("alpha", alpha, 0.0, 1.0)
    expect_writable_lists(params=params, square_averages=square_averages, masters=masters, averages=averages)
    backend.optim.rmsprop_step(
        params,
        grads,
        square_averages,
        masters,
        scaling,
        averages,
        lr=lr,
        alpha=alpha,
        eps=eps,
        weight_decay=decay,
        ema=ema,
    )
