"""The step of Lion."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import learning_rate, number
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable_lists
from gpuconv.ops.optim.expect import expect_step, expect_weight_decay
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar


@op("optimizer.cu", changes="params exp_avgs masters averages")
def lion_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float | Sequence[float] = 0.0,
    ema: float = 0.999,
) -> None:
    """param -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * param);
    m = beta2 * m + (1 - beta2) * g (Chen et al. 2023). The sign of 0 is 0.

    Args:
        params: Arrays of any shapes and float dtypes, changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        exp_avgs: m. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master
            or, without masters, of the parameter.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        beta1: In [0, 1).
        beta2: In [0, 1).
        weight_decay: One number, or one for each parameter. It is decoupled, as in AdamW.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, exp_avgs=exp_avgs),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    ema = expect_step(params, grads, masters, scaling, averages, ema, exp_avgs=exp_avgs)
    lr, decay = learning_rate(lr, params), expect_weight_decay(weight_decay, params)
    beta1 = number("beta1", beta1, 0.0, 1.0, open_high=True)
    beta2 = number("beta2", beta2, 0.0, 1.0, open_high=True)
    expect_writable_lists(params=params, exp_avgs=exp_avgs, masters=masters, averages=averages)
    backend.optim.lion_step(
        params,
        grads,
        exp_avgs,
        masters,
        scaling,
        averages,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=decay,
        ema=ema,
    )
