"""The step of AdaGrad."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable_lists
from gpuconv.ops.optim.expect import expect_rates, expect_step
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar


@op("optimizer.cu", changes="params square_sums masters averages")
def adagrad_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    square_sums: Sequence[Array],
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    eps: float = 1e-10,
    weight_decay: float | Sequence[float] = 0.0,
    ema: float = 0.999,
) -> None:
    """s += g**2; param -= lr * g / (sqrt(s) + eps) (Duchi et al. 2011).

    Args:
        params: Arrays of any shapes and float dtypes, changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        square_sums: s. Changed in place, zero at first; each has the shape of its parameter and the dtype of its
            master or, without masters, of the parameter.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, square_sums=square_sums),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    ema = expect_step(params, grads, masters, scaling, averages, ema, square_sums=square_sums)
    lr, eps, decay = expect_rates(lr, eps, weight_decay, params)
    expect_writable_lists(params=params, square_sums=square_sums, masters=masters, averages=averages)
    backend.optim.adagrad_step(
        params, grads, square_sums, masters, scaling, averages, lr=lr, eps=eps, weight_decay=decay, ema=ema
    )
