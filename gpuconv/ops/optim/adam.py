"""The step of Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import flag, number, step_integer
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable_lists
from gpuconv.ops.optim.expect import expect_rates, expect_step
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar


@op("optimizer.cu", changes="params exp_avgs exp_avg_sqs masters averages")
def adam_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    masters: Sequence[Array] | None = None,
    scaling: Array | None = None,
    averages: Sequence[Array] | None = None,
    *,
    lr: Scalar,
    step: Scalar,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float | Sequence[float] = 0.0,
    decoupled: bool = False,
    ema: float = 0.999,
) -> None:
    """m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g**2;
    param -= lr * (m / (1 - beta1**step)) / (sqrt(v / (1 - beta2**step)) + eps) (Kingma and Ba 2014).

    Args:
        params: Arrays of any shapes and float dtypes, changed in place.
        grads: The gradients, each of its parameter's shape and dtype.
        exp_avgs: m. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master
            or, without masters, of the parameter.
        exp_avg_sqs: v, as m.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale or clip_norm changed, or None. The gradients are multiplied by
            scaling[1] first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param; with masters, the master takes param's place.
            Each has the shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be a float32 or float64 array of one element on the device.
        step: The number of this step, from 1; may be an int64 array of one element. scaling[3], the number of
            skipped steps, is subtracted.
        beta1: In [0, 1).
        beta2: In [0, 1).
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        decoupled: AdamW (Loshchilov and Hutter 2017): instead of adding to the gradient, the decay first scales
            param by 1 - lr * weight_decay.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            a changed array that occurs twice, other than a parameter that is its own master.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr, step=step),
    )
    ema = expect_step(params, grads, masters, scaling, averages, ema, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    lr, eps, decay = expect_rates(lr, eps, weight_decay, params)
    step = step_integer("step", step, 1)
    beta1 = number("beta1", beta1, 0.0, 1.0, open_high=True)
    beta2 = number("beta2", beta2, 0.0, 1.0, open_high=True)
    expect_writable_lists(params=params, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs, masters=masters, averages=averages)
    backend.optim.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        masters,
        scaling,
        averages,
        lr=lr,
        step=step,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=decay,
        decoupled=flag("decoupled", decoupled),
        ema=ema,
    )
