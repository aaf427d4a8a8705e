"""Initial values of weights, drawn from gpuconv.random's INIT stream: the same bits on every device.

An initializer is called with the shape, dtype, seed and sub-stream of its variable, and with the groups of the
convolution. It is chosen by name, or by a mapping with options, ``{"name": "he_uniform", "fan": "out"}``, so that a
layer's config stays JSON.

fan_in is the number of inputs that one output sums over, fan_out the number of outputs that one input feeds. For
filters (K, R, S, C // groups) they are R * S * C / groups and R * S * K / groups; for a linear weight (out, in) they
are in and out. These are the connections counted in equations 7 and 14 of He et al. 2015. (PyTorch uses R * S * K as
fan_out for any number of groups, which makes the weights of a depthwise convolution sqrt(C) times too small with
"out".)

For a transposed convolution the two are exchanged, as in PyTorch: its weight is (in, R, S, out // groups), and the same
formulas give fan_in = R * S * out / groups and fan_out = R * S * in / groups.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import random
from gpuconv.arguments import number
from gpuconv.dtypes import converted
from gpuconv.names import canonical, canonical_keys, lookup
from gpuconv.types import Shape

Initializer = Callable[..., np.ndarray]


def fans(shape: Shape, groups: int = 1) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight.

    Args:
        shape: (out, ..., in // groups), of rank 2 or more; (in, ..., out // groups) for a transposed convolution.
        groups: The groups of the convolution.

    Raises:
        ValueError: The weight has a rank below 2.
    """
    if len(shape) < 2:
        raise ValueError(f"a fan needs a weight of rank 2 or more, received shape {shape}; biases take 'zeros'")
    return math.prod(shape[1:]), shape[0] // groups * math.prod(shape[1:-1])


def zeros(shape: Shape, *, dtype: DTypeLike, seed: int = 0, substream: int = 0, groups: int = 1) -> np.ndarray:
    """Zeros.

    Args:
        shape: The shape of the array; that of a weight is (out, ..., in // groups).
        dtype: The dtype of the result.
        seed: The seed of the draw, at least 0.
        substream: The number of the variable among those drawn with that seed; each variable has its own.
        groups: The groups of the convolution, on which the fans depend.
    """
    return np.zeros(shape, dtype)


def ones(shape: Shape, *, dtype: DTypeLike, seed: int = 0, substream: int = 0, groups: int = 1) -> np.ndarray:
    """Ones. Arguments as in `zeros`."""
    return np.ones(shape, dtype)


def constant(
    shape: Shape, *, dtype: DTypeLike, seed: int = 0, substream: int = 0, groups: int = 1, value: float = 0.0
) -> np.ndarray:
    """One value everywhere.

    Args:
        value: The value, finite.

    Other arguments as in `zeros`. Raises TypeError or ValueError for another value.
    """
    given = np.array(number("value", value, -math.inf))
    return np.full(shape, converted("value", given, np.dtype(dtype)), dtype)


def he_normal(
    shape: Shape,
    *,
    dtype: DTypeLike,
    seed: int,
    substream: int = 0,
    groups: int = 1,
    fan: str = "in",
    gain: float = 2**0.5,
) -> np.ndarray:
    """Drawn from a normal distribution with variance gain**2 / fan. In a ReLU net, the variance of the activations is
    then about the same in all layers (He et al. 2015).

    Args:
        fan: "in" or "out", see `fans`.
        gain: sqrt(2) by default, for ReLU.

    Other arguments as in `zeros`.
    """
    return _normal(shape, _he(shape, groups, fan, gain), dtype, seed, substream)


def he_uniform(
    shape: Shape,
    *,
    dtype: DTypeLike,
    seed: int,
    substream: int = 0,
    groups: int = 1,
    fan: str = "in",
    gain: float = 2**0.5,
) -> np.ndarray:
    """Drawn uniformly; variance and arguments as in `he_normal`."""
    return _uniform(shape, _he(shape, groups, fan, gain), dtype, seed, substream)


def xavier_normal(
    shape: Shape, *, dtype: DTypeLike, seed: int, substream: int = 0, groups: int = 1, gain: float = 1.0
) -> np.ndarray:
    """Drawn from a normal distribution with variance gain**2 * 2 / (fan_in + fan_out) (Glorot and Bengio 2010).

    Args:
        gain: A factor on the standard deviation.

    Other arguments as in `zeros`.
    """
    return _normal(shape, 2 * _square(gain) / sum(fans(shape, groups)), dtype, seed, substream)


def xavier_uniform(
    shape: Shape, *, dtype: DTypeLike, seed: int, substream: int = 0, groups: int = 1, gain: float = 1.0
) -> np.ndarray:
    """Drawn uniformly; variance and arguments as in `xavier_normal`."""
    return _uniform(shape, 2 * _square(gain) / sum(fans(shape, groups)), dtype, seed, substream)


def dirac(shape: Shape, *, dtype: DTypeLike, seed: int, substream: int = 0, groups: int = 1) -> np.ndarray:
    """Identity filters: in each group, filter k copies channel k. Filters beyond the number of channels are drawn
    uniformly with variance 1 / (3 * fan_in), PyTorch's default (as in Jordan 2024, airbench). Arguments as in `zeros`;
    shape is (K, R, S, C // groups). Raises ValueError for another rank.
    """
    if len(shape) != 4:
        raise ValueError(f"'dirac' is for filters (K, R, S, C // groups), received a weight of shape {shape}")
    filters, r, s, channels = shape
    weight = he_uniform(shape, dtype=dtype, seed=seed, substream=substream, gain=3**-0.5)
    filters_per_group = filters // groups
    for copied in range(min(filters_per_group, channels)):
        weight[copied::filters_per_group] = 0
        weight[copied::filters_per_group, r // 2, s // 2, copied] = 1
    return weight


def _he(shape: Shape, groups: int, fan: str, gain: float) -> float:
    return _square(gain) / fans(shape, groups)[lookup("fan", fan, {"in": 0, "out": 1})]


def _square(gain: object) -> float:
    value = number("gain", gain, -math.inf)
    return value * value  # infinite if it overflows, where value**2 raises OverflowError


def _normal(shape: Shape, variance: float, dtype: DTypeLike, seed: int, substream: int) -> np.ndarray:
    return random.normal(
        shape, std=math.sqrt(variance), seed=seed, stream=random.INIT, substream=substream, dtype=dtype
    )


def _uniform(shape: Shape, variance: float, dtype: DTypeLike, seed: int, substream: int) -> np.ndarray:
    bound = math.sqrt(3.0 * variance)
    return random.uniform(
        shape, low=-bound, high=bound, seed=seed, stream=random.INIT, substream=substream, dtype=dtype
    )


INITIALIZERS: dict[str, Initializer] = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "dirac": dirac,
    "zeros": zeros,
    "ones": ones,
    "constant": constant,
}


def get(choice: str | Mapping[str, object]) -> Initializer:
    """The initializer that `choice` names.

    Args:
        choice: A name, or ``{"name": ..., option: value}``.

    Raises:
        TypeError: The name is not text.
        ValueError: An unknown name or option; the nearest known one is named.
    """
    name, options = _name_and_options(choice)
    return functools.partial(INITIALIZERS[name], **options) if options else INITIALIZERS[name]


def canonical_choice(choice: str | Mapping[str, object]) -> str | dict[str, object]:
    """The choice with its names as documented. Raises as `get` does."""
    name, options = _name_and_options(choice)
    return {"name": name, **options} if isinstance(choice, Mapping) else name


def _name_and_options(choice: str | Mapping[str, object]) -> tuple[str, dict[str, Any]]:
    options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = canonical("initializer", options.pop("name", None), INITIALIZERS)
    reserved = ("shape", "dtype", "seed", "substream", "groups")
    known = (option for option in inspect.signature(INITIALIZERS[name]).parameters if option not in reserved)
    return name, canonical_keys(f"option of {name}", options, known)
