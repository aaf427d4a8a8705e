"""The terms of one value of a layer: the inputs that it reads, or the outputs whose gradients it sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool2D,
)
from gpuconv.layers.activation import Activation
from gpuconv.layers.base import Layer
from gpuconv.layers.branches import Merging
from gpuconv.problems import Conv2dProblem, Pool2dProblem
from gpuconv.types import Array

Place = tuple[int, ...]

_MIXING = (ConvTranspose2D, GroupNorm, LayerNorm)  # whose outputs may have the shape of their inputs


@dataclass(frozen=True)
class Window:
    """The inputs of one value. weight: their factors, or None. bias: added to the sum. origin: for each axis of
    `values`, its start in the input and the step between its values."""

    values: np.ndarray
    weight: np.ndarray | None
    bias: float
    origin: list[tuple[int, int]]

    def place(self, inside: tuple[int, ...]) -> Place:
        """The index in the input of a value of the window."""
        return tuple(int(start + index * step) for index, (start, step) in zip(inside, self.origin))


def reads(layer: Layer, x: np.ndarray, at: Place) -> Window:
    """The part of x, a layer's input for one image, that the output at an index reads.

    Inputs in the padding are -inf for a max pool, else 0. Raises ValueError for a layer whose values do not depend on a
    single window.
    """
    if isinstance(layer, Conv2D):
        weight, (k, channels) = host(layer["weight"]), (layer.out_channels, layer.problem.w_shape[3])
        first = at[2] // (k // layer.groups) * channels
        window, origin = _window(layer.problem, x[:, :, first : first + channels], at, weight.shape[1:3], 0.0)
        return Window(window, weight[at[2]], _bias(layer, at), [*origin, (first, 1)])
    if isinstance(layer, Linear):
        return Window(x, host(layer["weight"])[at[-1]], _bias(layer, at), [(0, 1)])
    if isinstance(layer, MaxPool2D | AvgPool2D):
        problem, channel = layer.problem, slice(at[2], at[2] + 1)
        outside = -np.inf if isinstance(layer, MaxPool2D) else 0.0
        window, origin = _window(problem, x[:, :, channel], at, problem.kernel_size, outside)
        factors = None
        if isinstance(layer, AvgPool2D):
            factors, _ = _window(problem, _pulled_back(layer, x, at)[:, :, channel], at, problem.kernel_size, 0.0)
        return Window(window, factors, 0.0, [*origin, (at[2], 1)])
    if isinstance(layer, GlobalAvgPool2D):
        values = x[:, :, at[2] : at[2] + 1]
        return Window(values, np.full(values.shape, 1 / values.size), 0.0, [(0, 1), (0, 1), (at[2], 1)])
    if isinstance(layer, BatchNorm):
        gamma, beta, mean, variance = (host(vector)[at[-1]] for vector in layer.vectors)
        scale = gamma / np.sqrt(variance + layer.eps)
        one = _same_place(x, at)
        return Window(one.values, np.full(one.values.shape, scale), float(beta - mean * scale), one.origin)
    if isinstance(layer, Flatten):
        return _same_place(x, tuple(map(int, np.unravel_index(at[0], x.shape))))
    if _keeps_places(layer, x):
        return _same_place(x, at)
    raise ValueError(f"{layer.path} is a {type(layer).__name__}, whose values do not depend on a single window")


def sends(layer: Layer, x: np.ndarray, at: Place) -> np.ndarray:
    """The derivatives of all outputs of a layer with respect to the input at an index, by which their gradients are
    multiplied. Raises ValueError as `reads` does."""
    one = np.zeros((1, *x.shape))
    one[(0, *at)] = 1
    with backends.oracle():
        if isinstance(layer, Conv2D):
            return ops.conv2d(one, host(layer["weight"]), **layer.problem.window)[0]
        if isinstance(layer, Linear):
            return host(layer["weight"])[:, at[0]]
        if isinstance(layer, AvgPool2D):
            return ops.avg_pool2d(one, **layer.options)[0]
        if isinstance(layer, GlobalAvgPool2D):
            return ops.global_avg_pool2d(one)[0]
        if isinstance(layer, MaxPool2D):
            return _won_by(layer, x, at)
        if isinstance(layer, BatchNorm):
            gamma, _, _, variance = (host(vector) for vector in layer.vectors)
            return one[0] * gamma / np.sqrt(variance + layer.eps)
        if isinstance(layer, Activation):
            kept = getattr(ops, layer.op)(x[None], **layer.options) if layer.keeps_output else x[None]
            return getattr(ops, f"{layer.op}_backward")(one, kept, **layer.options)[0]
    if isinstance(layer, Flatten) or _keeps_places(layer, x):
        return one.reshape(layer.output_shape or ())
    raise ValueError(f"{layer.path} is a {type(layer).__name__}, through which a single gradient cannot be followed")


def branches(layer: Merging, x: Array) -> list[Array]:
    """The outputs of a layer's branches; those of a residual block are its body and its shortcut."""
    return [row.infer(x) if row else x for row in layer.rows]


def _keeps_places(layer: Layer, x: np.ndarray) -> bool:
    """Whether each output is that of the input at its place."""
    return x.shape == layer.output_shape and not layer.children() and not isinstance(layer, _MIXING)


def host(array: object) -> np.ndarray:
    return backends.to_numpy(array).astype(np.float64)


def _bias(layer: Any, at: Place) -> float:
    return float(host(layer["bias"])[at[-1]]) if layer.bias else 0.0


def _same_place(x: np.ndarray, at: Place) -> Window:
    return Window(x[tuple(slice(i, i + 1) for i in at)], None, 0.0, [(i, 1) for i in at])


def _window(
    problem: Conv2dProblem | Pool2dProblem, x: np.ndarray, at: Place, size: tuple[int, ...], outside: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The window of a convolution or a pool, and where it begins, which may be in the padding."""
    steps = getattr(problem, "dilation", (1, 1))
    origin = [(at[axis] * problem.stride[axis] - problem.padding[axis][0], steps[axis]) for axis in (0, 1)]
    window = np.full((*size, x.shape[2]), outside)
    for i, j in np.ndindex(*size):
        row, column = origin[0][0] + i * steps[0], origin[1][0] + j * steps[1]
        if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
            window[i, j] = x[row, column]
    return window, origin


def _pulled_back(layer: Any, x: np.ndarray, at: Place) -> np.ndarray:
    """The factors of an average pool's inputs in its output at an index: the gradient of that output."""
    one = np.zeros((1, *layer.output_shape))
    one[(0, *at)] = 1
    with backends.oracle():
        return ops.avg_pool2d_backward(one, input_shape=(1, *x.shape), **layer.options)[0]


def _won_by(layer: MaxPool2D, x: np.ndarray, at: Place) -> np.ndarray:
    """1 for each window whose maximum is the input at this index, else 0."""
    _, argmax = ops.max_pool2d(x[None], **layer.options)
    won = np.zeros(argmax.shape)
    channel, columns = at[2], layer.problem.kernel_size[1]
    for row, column in np.ndindex(*argmax.shape[1:3]):
        inside = divmod(int(argmax[0, row, column, channel]), columns)
        place = [
            i * s - p[0] + r for i, s, p, r in zip((row, column), layer.problem.stride, layer.problem.padding, inside)
        ]
        won[0, row, column, channel] = tuple(place) == at[:2]
    return won[0]
