"""Where one activation comes from: the inputs it reads, what each is multiplied by, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv import backends
from gpuconv.layers import Conv2D, Linear, MaxPool2D
from gpuconv.layers.base import Layer
from gpuconv.names import lookup


@dataclass(frozen=True)
class Term:
    """One product of the sum. at: the place of the input, (y, x, channel) or (feature,)."""

    at: tuple[int, ...]
    input: float
    weight: float

    @property
    def product(self) -> float:
        return self.input * self.weight


@dataclass(frozen=True)
class Explanation:
    """One activation of a layer.

    value: as the device computed it. total: of the float64 sum of window * weight, plus the bias; of a pool the winner.
    window: the inputs that are read, (R, S, C) or (features,), 0 in the padding of a convolution and -inf in that of a
    pool. weight: the filter, of the window's shape, or None for layers without weights. terms: the products of the
    largest magnitude; of a pool the winner first.
    """

    layer: str
    kind: str
    at: tuple[int, ...]
    value: float
    total: float
    bias: float
    window: np.ndarray = field(repr=False)
    weight: np.ndarray | None = field(repr=False)
    terms: list[Term]

    @property
    def error(self) -> float:
        return abs(self.value - self.total)

    def __str__(self) -> str:
        place = ", ".join(map(str, self.at))
        count = self.window.size
        if self.weight is not None:
            how = f"{count} products and the bias {self.bias:.6g} sum to {self.total:.9g} in float64"
        elif self.kind == "MaxPool2D":
            how = f"the largest of {count} inputs"
        else:
            how = f"from the input {self.total:.9g} at the same place"
        return f"{self.layer}[{place}] = {self.value:.9g}: {how}"


def explain(net: Any, x: Any, layer: str, at: Sequence[int], *, most: int = 12) -> Explanation:
    """One activation of a layer in the net's row, for a batch x of one image.

    at: its place, (y, x, channel) or (feature,). most: how many terms to name. Raises ValueError for an unknown layer,
    for a place outside its volume, and for a layer whose values are no function of one window.
    """
    chosen = lookup("layer", layer, dict(net.children()))
    for _, each in net.children():
        if each is chosen:
            break
        x = each.infer(x)
    y = _array(chosen.infer(x))
    place = _expect_place(at, y.shape, layer)
    value, read = float(y[place]), _array(x)
    window, weight, bias, origin = _reads(chosen, read, place)
    if weight is None:
        total = float(window.max()) if isinstance(chosen, MaxPool2D) else float(window.ravel()[0])
        order = np.argsort(-window, axis=None, kind="stable")[:most]
        factors = np.ones(window.shape)
    else:
        total = math.fsum((window * weight).ravel()) + bias
        order = np.argsort(-np.abs(window * weight), axis=None, kind="stable")[:most]
        factors = weight
    terms = []
    for number in order:
        inside = np.unravel_index(number, window.shape)
        where = tuple(int(start + index * step) for index, (start, step) in zip(inside, origin))
        terms.append(Term(where, float(window[inside]), float(factors[inside])))
    return Explanation(layer, type(chosen).__name__, place, value, total, bias, window, weight, terms)


Origin = list[
    tuple[int, int]
]  # of each axis of a window: where it begins in the input, and the step between its values


def _reads(layer: Layer, x: np.ndarray, place: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None, float, Origin]:
    """The window, the weight, the bias and where the window lies."""
    if isinstance(layer, Conv2D):
        weight = _host(layer["weight"])
        filters, channels = weight.shape[0], weight.shape[3]
        first = place[2] // (filters // layer.groups) * channels
        window, origin = _window(layer.problem, x[:, :, first : first + channels], place, weight.shape[1:3], 0.0)
        origin[2] = (first, 1)
        return window, weight[place[2]], float(_host(layer["bias"])[place[2]]) if layer.bias else 0.0, origin
    if isinstance(layer, Linear):
        bias = float(_host(layer["bias"])[place[-1]]) if layer.bias else 0.0
        return x, _host(layer["weight"])[place[-1]], bias, [(0, 1)]
    if isinstance(layer, MaxPool2D):
        channel = place[2]
        problem = layer.problem
        window, origin = _window(problem, x[:, :, channel : channel + 1], place, problem.kernel_size, -np.inf)
        origin[2] = (channel, 1)
        return window, None, 0.0, origin
    if x.shape == layer.output_shape and not layer.children():
        return x[tuple(slice(index, index + 1) for index in place)], None, 0.0, [(index, 1) for index in place]
    raise ValueError(f"{layer.name} is a {type(layer).__name__}, whose values are no function of one window")


def _window(
    problem: Any, x: np.ndarray, place: tuple[int, ...], size: tuple[int, ...], outside: float
) -> tuple[np.ndarray, Origin]:
    """The window of a convolution or a pool, and where it begins, which may be in the padding."""
    steps = getattr(problem, "dilation", (1, 1))
    origin = [(place[axis] * problem.stride[axis] - problem.padding[axis][0], steps[axis]) for axis in (0, 1)]
    window = np.full((*size, x.shape[2]), outside)
    for i, j in np.ndindex(*size):
        row, column = origin[0][0] + i * steps[0], origin[1][0] + j * steps[1]
        if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
            window[i, j] = x[row, column]
    return window, [*origin, (0, 1)]


def _array(x: Any) -> np.ndarray:
    """The volume of a batch of one image, in float64."""
    if x.shape[0] != 1:
        raise ValueError(f"one value is explained for a batch of one image, received {x.shape[0]}")
    return _host(x)[0]


def _host(array: Any) -> np.ndarray:
    return backends.to_numpy(array).astype(np.float64)


def _expect_place(at: Sequence[int], shape: tuple[int, ...], layer: str) -> tuple[int, ...]:
    place = tuple(at)
    fits = len(place) == len(shape) and all(type(i) is int and 0 <= i < size for i, size in zip(place, shape))
    if not fits:
        size = " x ".join(map(str, shape))
        raise ValueError(f"a place of {layer} is {len(shape)} whole numbers from 0 inside {size}, received {[*place]}")
    return place
