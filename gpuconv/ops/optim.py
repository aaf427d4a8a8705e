"""Optimizer steps. One call updates a whole list of parameters in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.arguments import flag, integer, learning_rate, number, positive, step_integer
from gpuconv.backends import backend_of
from gpuconv.dtypes import accumulation_dtype, is_float
from gpuconv.list_cache import ListCache
from gpuconv.ops.expect import expect_any_float, expect_shape, expect_writable, expect_writable_lists
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, Scalar

__all__ = [
    "adagrad_step",
    "adam_step",
    "clip_norm",
    "clip_values",
    "lion_step",
    "rmsprop_step",
    "sgd_step",
    "update_loss_scale",
]


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
        velocities: v. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master,
            if there is one. None without momentum.
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
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads),
        optional_lists=dict(velocities=velocities, masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    if velocities is None and momentum:
        raise ValueError(f"momentum {momentum} needs velocities, which were not given")
    states = {} if velocities is None else {"velocities": velocities}
    expect_step(params, grads, masters, scaling, averages, **states)
    ema = number("ema", ema, 0.0, 1.0)
    lr, momentum = learning_rate(lr, params), expect_momentum(momentum, nesterov)
    decay = _decay(weight_decay, params)
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
            master, if there is one.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale changed, or None. The gradients are multiplied by scaling[1]
            first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param, of the masters if there are any; each has the
            shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be an array of one element on the device.
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, square_sums=square_sums),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    expect_step(params, grads, masters, scaling, averages, square_sums=square_sums)
    ema = number("ema", ema, 0.0, 1.0)
    lr, eps, decay = learning_rate(lr, params), number("eps", eps, 0.0, used_with=params), _decay(weight_decay, params)
    expect_writable_lists(params=params, square_sums=square_sums, masters=masters, averages=averages)
    backend.optim.adagrad_step(
        params, grads, square_sums, masters, scaling, averages, lr=lr, eps=eps, weight_decay=decay, ema=ema
    )


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
            master, if there is one.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale changed, or None. The gradients are multiplied by scaling[1]
            first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param, of the masters if there are any; each has the
            shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be an array of one element on the device.
        alpha: In [0, 1].
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, square_averages=square_averages),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    expect_step(params, grads, masters, scaling, averages, square_averages=square_averages)
    ema = number("ema", ema, 0.0, 1.0)
    lr, eps, decay = learning_rate(lr, params), number("eps", eps, 0.0, used_with=params), _decay(weight_decay, params)
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
        exp_avgs: m. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master,
            if there is one.
        exp_avg_sqs: v, as m.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale changed, or None. The gradients are multiplied by scaling[1]
            first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param, of the masters if there are any; each has the
            shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be an array of one element on the device.
        step: The number of this step, from 1; may be an int64 array of one element. The scaling[3] skipped steps
            are subtracted.
        beta1: In [0, 1).
        beta2: In [0, 1).
        eps: At least 0.
        weight_decay: One number, or one for each parameter; weight_decay * param is added to the gradient.
        decoupled: AdamW (Loshchilov and Hutter 2017): instead of adding to the gradient, the decay first scales
            param by 1 - lr * weight_decay.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr, step=step),
    )
    expect_step(params, grads, masters, scaling, averages, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    ema = number("ema", ema, 0.0, 1.0)
    lr, eps, decay = learning_rate(lr, params), number("eps", eps, 0.0, used_with=params), _decay(weight_decay, params)
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
        exp_avgs: m. Changed in place, zero at first; each has the shape of its parameter and the dtype of its master,
            if there is one.
        masters: Arrays in the accumulation dtype, float32 for a 16-bit parameter. The formula updates these, and the
            parameters are then rounded from them. A parameter may be its own master. None updates the parameters
            themselves.
        scaling: The array that update_loss_scale changed, or None. The gradients are multiplied by scaling[1]
            first; if that is 0, nothing changes, not even the averages.
        averages: Changed in place to ema * average + (1 - ema) * param, of the masters if there are any; each has the
            shape and dtype of the array that it averages.
        lr: The learning rate, at least 0; may be an array of one element on the device.
        beta1: In [0, 1).
        beta2: In [0, 1).
        weight_decay: One number, or one for each parameter. It is decoupled, as in AdamW.
        ema: The averages' decay, in [0, 1].

    Raises:
        ValueError, TypeError: Lists of different lengths, or arrays whose shapes, dtypes or devices do not match;
            an array that occurs twice.
    """
    backend = backend_of(
        lists=dict(params=params, grads=grads, exp_avgs=exp_avgs),
        optional_lists=dict(masters=masters, averages=averages),
        optional=dict(scaling=scaling),
        numbers=dict(lr=lr),
    )
    expect_step(params, grads, masters, scaling, averages, exp_avgs=exp_avgs)
    ema = number("ema", ema, 0.0, 1.0)
    lr, decay = learning_rate(lr, params), _decay(weight_decay, params)
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


@op("clip.cu", changes="clipped")
def clip_norm(clipped: Array, grads: Sequence[Array], scaling: Array | None = None, *, max_norm: float) -> None:
    """Limit the total norm of all gradients in the next optimizer step: clipped becomes a copy of scaling with
    clipped[1] = scaling[1] * min(1, max_norm / (norm + 1e-6)), by which that step multiplies the gradients (PyTorch's
    clip_grad_norm_; Pascanu et al. 2013).

    Args:
        clipped: (4,) float64, changed in place; the scaling argument of the optimizer step.
        grads: All gradients of the step, of any float dtypes. The norm is the root of the sum of the squares of all
            their numbers times scaling[1], computed in float64.
        scaling: The array that update_loss_scale changed, or None, which stands for [1, 1, 0, 0]. If scaling[1] is 0,
            clipped[1] is 0 too, and the step is skipped.
        max_norm: Above 0.

    A norm that is not finite makes clipped[1] NaN. The step then makes every parameter NaN, so the fault is not hidden.
    """
    backend = backend_of(clipped=clipped, lists=dict(grads=grads), optional=dict(scaling=scaling))
    _expect_scaling(clipped, "clipped")
    _expect_floats("grads", grads)
    if scaling is not None:
        _expect_scaling(scaling)
    max_norm = positive("max_norm", max_norm)
    expect_writable(clipped=clipped)
    (scaling,) = copy_if_overlapping([clipped], scaling)
    backend.optim.clip_norm(clipped, grads, scaling, max_norm=max_norm)


@op("clip.cu", changes="grads")
def clip_values(grads: Sequence[Array], scaling: Array | None = None, *, clip_value: float) -> None:
    """Limit each number of the gradients: g = min(max(g, -limit), limit), limit = clip_value / scaling[1] (PyTorch's
    clip_grad_value_). NaN stays NaN.

    Args:
        grads: Arrays of any shapes and float dtypes, changed in place.
        scaling: The array that update_loss_scale changed, or None: then the limit is clip_value. If scaling[1] is 0,
            nothing changes.
        clip_value: Above 0.
    """
    backend = backend_of(lists=dict(grads=grads), optional=dict(scaling=scaling))
    _expect_floats("grads", grads)
    if scaling is not None:
        _expect_scaling(scaling)
    clip_value = positive("clip_value", clip_value)
    expect_writable_lists(grads=grads)
    backend.optim.clip_values(grads, scaling, clip_value=clip_value)


@op("loss_scale.cu", changes="scaling")
def update_loss_scale(
    scaling: Array, grads: Sequence[Array], *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> None:
    """Update a dynamic loss scale, between backward and the optimizer's step (Micikevicius et al. 2018).

    After a step whose gradients are not all finite, which the optimizer then skips, the scale is multiplied by backoff;
    after `interval` good steps, by growth.

    Args:
        scaling: (4,) float64, changed in place: [0] the scale by which to multiply the next loss gradient; [1] the
            factor by which the optimizer multiplies these gradients: 1 / the scale they were computed with, or 0 if
            any number in them is not finite; [2] the good steps since the scale changed; [3] all steps skipped so
            far.
        grads: All gradients of the step, of any float dtypes.
        growth: At least 1.
        backoff: In (0, 1].
        interval: A number of steps, at least 1.
    """
    backend = backend_of(scaling=scaling, lists=dict(grads=grads))
    _expect_scaling(scaling)
    _expect_floats("grads", grads)
    growth, backoff = number("growth", growth, 1.0), positive("backoff", number("backoff", backoff, 0.0, 1.0))
    interval = integer("interval", interval, 1)
    expect_writable(scaling=scaling)
    backend.optim.update_loss_scale(scaling, grads, growth=growth, backoff=backoff, interval=interval)


def _decay(weight_decay: float | Sequence[float], params: Sequence[Array]) -> tuple[float, ...]:
    count = len(params)
    if not isinstance(weight_decay, (tuple, list)):
        return (number("weight_decay", weight_decay, 0.0, used_with=params),) * count
    if len(weight_decay) != count:
        raise ValueError(
            f"weight_decay must be one number or one for each of {count} params, received {len(weight_decay)}"
        )
    return tuple([number("weight_decay", value, 0.0, used_with=params) for value in weight_decay])


def expect_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    **states: Sequence[Array],
) -> None:
    """Check the lists of a step: gradients match the parameters; state and averages match the masters."""
    if averages is not None:
        states["averages"] = averages
    lists = [each for each in (params, grads, masters, *states.values()) if isinstance(each, (list, tuple))]
    arrays = [array for each in lists for array in each]
    context = masters is None, tuple(map(len, lists))
    if _checked.get(arrays, *context):
        if scaling is not None:
            _expect_scaling(scaling)
        return
    _expect_lists(params, grads, masters, scaling, **states)
    _checked.keep(arrays, True, *context)


_checked = ListCache()  # the arrays of lists that passed `expect_step`


def _expect_lists(
    params: Sequence[Array],
    grads: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    **states: Sequence[Array],
) -> None:
    _expect_floats("params", params)
    _expect_alike("params", params, same_dtype=True, grads=grads)
    if scaling is not None:
        _expect_scaling(scaling)
    if masters is None:
        _expect_alike("params", params, same_dtype=True, **states)
        return
    _expect_alike("params", params, same_dtype=False, masters=masters)
    for index, (param, master) in enumerate(zip(params, masters)):
        expected = accumulation_dtype(param.dtype)
        if master.dtype != expected:
            raise TypeError(
                f"masters[{index}] must be {expected.name} for {param.dtype.name} params, received {master.dtype.name}"
            )
    _expect_alike("masters", masters, same_dtype=True, **states)


def _expect_floats(name: str, arrays: Sequence[Array]) -> None:
    """A list of float arrays."""
    _expect_list(name, arrays)
    if not all(map(is_float, {array.dtype for array in arrays})):
        for index, array in enumerate(arrays):
            expect_any_float(f"{name}[{index}]", array)


def _expect_alike(first_name: str, first: Sequence[Array], /, *, same_dtype: bool, **lists: Sequence[Array]) -> None:
    """The arrays of all `lists` agree with those of the first list in shape and, with `same_dtype`, in dtype."""
    for name, arrays in lists.items():
        _expect_list(name, arrays)
        if len(arrays) != len(first):
            raise ValueError(f"{name} must have as many arrays as {first_name} ({len(first)}), received {len(arrays)}")
        for index, (array, like) in enumerate(zip(arrays, first)):
            if array.shape != like.shape:
                expect_shape(f"{name}[{index}]", array, like.shape, f"the shape of {first_name}[{index}]")
            if same_dtype and array.dtype != like.dtype:
                raise TypeError(
                    f"{name}[{index}] must be {like.dtype.name} as {first_name}[{index}] is, "
                    f"received {array.dtype.name}"
                )


def _expect_list(name: str, arrays: Sequence[Array]) -> None:
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(f"{name} must be a list of arrays, received {type(arrays).__name__}")


def _expect_scaling(scaling: Array, name: str = "scaling") -> None:
    if scaling.dtype != np.float64 or scaling.shape != (4,):
        raise TypeError(f"{name} must be float64 of shape (4,), received {scaling.dtype.name} of {scaling.shape}")


def expect_momentum(momentum: float, nesterov: bool) -> float:
    momentum = number("momentum", momentum, 0.0, 1.0)
    if flag("nesterov", nesterov) and not momentum:
        raise ValueError("nesterov=True needs a momentum above 0")
    return momentum
