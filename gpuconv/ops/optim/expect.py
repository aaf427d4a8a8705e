"""Checks that the optimizer ops share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuconv.arguments import flag, learning_rate, number
from gpuconv.dtypes import accumulation_dtype, is_float
from gpuconv.list_cache import ListCache
from gpuconv.ops.expect import expect_any_float, expect_shape
from gpuconv.types import Array, Scalar


def expect_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    ema: float,
    **states: Sequence[Array],
) -> float:
    """Check what every step takes: gradients match the parameters; state and averages match the masters, or without
    masters the parameters. Returns ema, the decay of the averages, as a float."""
    if averages is not None:
        states["averages"] = averages
    lists = [each for each in (params, grads, masters, *states.values()) if isinstance(each, (list, tuple))]
    arrays = [array for each in lists for array in each]
    context = masters is None, tuple(map(len, lists))
    if not _checked.get(arrays, *context):
        _expect_lists(params, grads, masters, **states)
        _checked.keep(arrays, True, *context)
    expect_scaling(scaling)
    return number("ema", ema, 0.0, 1.0)


_checked: ListCache[bool] = ListCache()  # the arrays of lists that passed `_expect_lists`


def _expect_lists(
    params: Sequence[Array], grads: Sequence[Array], masters: Sequence[Array] | None, **states: Sequence[Array]
) -> None:
    expect_floats("params", params)
    _expect_alike("params", params, same_dtype=True, grads=grads)
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


def expect_floats(name: str, arrays: Sequence[Array]) -> None:
    """Raise TypeError unless `arrays` is a list of float arrays."""
    _expect_list(name, arrays)
    if not all(map(is_float, {array.dtype for array in arrays})):
        for index, array in enumerate(arrays):
            expect_any_float(f"{name}[{index}]", array)


def _expect_alike(first_name: str, first: Sequence[Array], /, *, same_dtype: bool, **lists: Sequence[Array]) -> None:
    """Raise unless the arrays of all `lists` have the shapes and, with `same_dtype`, the dtypes of those in `first`."""
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


def expect_scaling(scaling: Array | None, name: str = "scaling") -> None:
    if scaling is not None and (scaling.dtype != np.float64 or scaling.shape != (4,)):
        raise TypeError(f"{name} must be float64 of shape (4,), received {scaling.dtype.name} of {scaling.shape}")


def expect_momentum(momentum: float, nesterov: bool) -> float:
    momentum = number("momentum", momentum, 0.0, 1.0)
    if flag("nesterov", nesterov) and not momentum:
        raise ValueError("nesterov=True needs a momentum above 0")
    return momentum


def expect_rates(
    lr: Scalar, eps: float, weight_decay: float | Sequence[float], params: Sequence[Array]
) -> tuple[Scalar, float, tuple[float, ...]]:
    """The learning rate, eps, and a weight decay for each parameter."""
    return (
        learning_rate(lr, params),
        number("eps", eps, 0.0, used_with=params),
        expect_weight_decay(weight_decay, params),
    )


def expect_weight_decay(weight_decay: float | Sequence[float], params: Sequence[Array]) -> tuple[float, ...]:
    count = len(params)
    if not isinstance(weight_decay, (tuple, list)):
        return (number("weight_decay", weight_decay, 0.0, used_with=params),) * count
    if len(weight_decay) != count:
        raise ValueError(
            f"weight_decay must be one number, or a list with one for each of {count} params; received a list of "
            f"{len(weight_decay)}"
        )
    return tuple([number("weight_decay", value, 0.0, used_with=params) for value in weight_decay])
