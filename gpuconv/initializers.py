"""First values of weights, drawn from gpuconv.random's INIT stream: the same bits on every device.

An initializer is called with the shape, the dtype, the seed and the sub-stream of its variable. It is chosen by name,
or by a mapping with options, ``{"name": "he_uniform", "fan": "out"}``, so that a layer's config stays JSON.

fan_in is the number of inputs that one output sums over, fan_out the number of outputs that one input feeds: for
filters (K, R, S, C // groups), R * S * C // groups and R * S * K; for a linear weight (out, in), in and out.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpuconv import random
from gpuconv.names import lookup

Initializer = Callable[..., np.ndarray]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight, (out, ..., in)."""
    if len(shape) < 2:
        raise ValueError(f"a fan is that of a weight of rank 2 or more, received shape {shape}; biases take 'zeros'")
    return math.prod(shape[1:]), shape[0] * math.prod(shape[1:-1])


def zeros(shape: tuple[int, ...], *, dtype: Any, seed: int = 0, substream: int = 0) -> np.ndarray:
    return constant(shape, dtype=dtype)


def ones(shape: tuple[int, ...], *, dtype: Any, seed: int = 0, substream: int = 0) -> np.ndarray:
    return constant(shape, dtype=dtype, value=1.0)


def constant(
    shape: tuple[int, ...], *, dtype: Any, seed: int = 0, substream: int = 0, value: float = 0.0
) -> np.ndarray:
    return np.full(shape, value, dtype)


def _normal(shape: tuple[int, ...], variance: float, dtype: Any, seed: int, substream: int) -> np.ndarray:
    return random.normal(
        shape, std=math.sqrt(variance), seed=seed, stream=random.INIT, substream=substream, dtype=dtype
    )


def _uniform(shape: tuple[int, ...], variance: float, dtype: Any, seed: int, substream: int) -> np.ndarray:
    bound = math.sqrt(3.0 * variance)
    return random.uniform(
        shape, low=-bound, high=bound, seed=seed, stream=random.INIT, substream=substream, dtype=dtype
    )


def _he(draw: Callable[..., np.ndarray]) -> Initializer:
    def he(
        shape: tuple[int, ...], *, dtype: Any, seed: int, substream: int = 0, fan: str = "in", gain: float = 2**0.5
    ) -> np.ndarray:
        """Variance gain**2 / fan: a ReLU net keeps its signal's size (He et al. 2015)."""
        axis = lookup("fan", fan, {"in": 0, "out": 1})
        return draw(shape, gain**2 / fans(shape)[axis], dtype, seed, substream)

    return he


def _xavier(draw: Callable[..., np.ndarray]) -> Initializer:
    def xavier(
        shape: tuple[int, ...], *, dtype: Any, seed: int, substream: int = 0, gain: float = 1.0
    ) -> np.ndarray:
        """Variance gain**2 * 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
        return draw(shape, 2 * gain**2 / sum(fans(shape)), dtype, seed, substream)

    return xavier


he_normal, he_uniform = _he(_normal), _he(_uniform)
xavier_normal, xavier_uniform = _xavier(_normal), _xavier(_uniform)


def dirac(shape: tuple[int, ...], *, dtype: Any, seed: int, substream: int = 0) -> np.ndarray:
    """Filters that begin as a copy: filter k passes channel k on, and those beyond the channels are drawn uniformly
    with variance 1 / (3 * fan_in), as PyTorch does by default (Jordan 2024 begins airbench's convolutions so).
    """
    filters, r, s, channels = shape
    weight = he_uniform(shape, dtype=dtype, seed=seed, substream=substream, gain=3**-0.5)
    copied = min(filters, channels)
    weight[:copied] = 0
    weight[range(copied), r // 2, s // 2, range(copied)] = 1
    return weight


INITIALIZERS: dict[str, Initializer] = {
    "he_normal": he_normal, "he_uniform": he_uniform, "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform, "dirac": dirac, "zeros": zeros, "ones": ones, "constant": constant,
}  # fmt: skip


def get(choice: str | Mapping[str, Any]) -> Initializer:
    """The initializer of a name, or of ``{"name": ..., option: value}``.

    Raises ValueError for an unknown name or option, with the nearest known one.
    """
    options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = options.pop("name", None)
    initializer = lookup("initializer", name, INITIALIZERS)  # type: ignore[arg-type]
    reserved = ("shape", "dtype", "seed", "substream")
    known = {option: option for option in inspect.signature(initializer).parameters if option not in reserved}
    given = {lookup(f"option of {name}", key, known): value for key, value in options.items()}
    return functools.partial(initializer, **given) if given else initializer
