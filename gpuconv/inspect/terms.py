"""The terms of one value of a layer: the inputs that it reads, or the outputs whose gradients it sums."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gpuconv import backends, ops
from gpuconv.layers import (
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    Input,
    Linear,
    MaxPool2D,
    Scale,
    Sequential,
    Upsample,
)
from gpuconv.layers.activation import Activation
from gpuconv.layers.base import Layer, descendants
from gpuconv.layers.branches import Merging
from gpuconv.layers.fused import Fused
from gpuconv.layers.group_norm import ImageNorm
from gpuconv.layers.registry import name_of
from gpuconv.problems import Conv2dProblem, Pool2dProblem
from gpuconv.types import Array

Index = tuple[int, ...]

# Layers whose outputs are sums of products with the input, plus a constant. For Conv2D `window_of_output` has code of
# its own, which also shows the padding.
_AFFINE = (AdaptiveAvgPool2D, AvgPool2D, BatchNorm, Conv2D, ConvTranspose2D, GlobalAvgPool2D, Linear, Scale, Upsample)
_PASSING = (Dropout, Flatten, Input)  # each output equals one of the inputs
_CONSTANTS = {"bias", "running_mean"}  # arrays that change only the constant of an affine layer


@dataclass(frozen=True)
class Window:
    """The inputs of one value. weight: the inputs' factors; None where the value is no weighted sum, as in a max pool,
    an elementwise activation or a copy. bias: added to the sum. origin: for each axis of `values`, the start in the
    input and the step between values."""

    values: np.ndarray
    weight: np.ndarray | None
    bias: float
    origin: list[tuple[int, int]]

    def input_index(self, inside: tuple[int, ...]) -> Index:
        """The input index of a value of the window."""
        return tuple(int(start + index * step) for index, (start, step) in zip(inside, self.origin))


def expect_explainable(net: Layer, layer: Layer) -> None:
    """Raises ValueError for a Sequential, a fused layer, a part of a fused layer, or an unknown kind of layer."""
    what = f"{layer.path or 'the net'} is a {name_of(type(layer))}"
    if isinstance(layer, Sequential):
        raise ValueError(f"{what}, which holds several layers; name one of them: {_names(layer)}")
    expect_not_fused(net, layer)
    if not isinstance(layer, (*_AFFINE, *_PASSING, Activation, ImageNorm, MaxPool2D, Merging)):
        raise ValueError(f"{what}, a kind that explain does not know; it knows the layers of gpuconv.layers")


def expect_not_fused(net: Layer, layer: Layer) -> None:
    """Raises ValueError for a fused layer and for a part of one."""
    fused = next((each for each in descendants(net) if isinstance(each, Fused) and layer in each.walk()), None)
    if fused:
        raise ValueError(
            f"{fused.path} is a {type(fused).__name__}, which runs its layers as one op; "
            "take the net as it was before fuse()"
        )


def window_of_output(layer: Layer, x: np.ndarray, at: Index) -> Window:
    """The part of x, a layer's input for one image, on which the output at an index depends.

    Inputs in the padding are 0 for a convolution and -inf for a max pool; other windows end at the map's edge.
    """
    if isinstance(layer, Conv2D):
        weight, (k, channels) = as_float64(layer["weight"]), (layer.out_channels, layer.problem.w_shape[3])
        first = at[2] // (k // layer.groups) * channels
        window, origin = _window(layer.problem, x[:, :, first : first + channels], at, weight.shape[1:3], 0.0)
        bias = float(as_float64(layer["bias"])[at[2]]) if layer.bias else 0.0
        return Window(window, weight[at[2]], bias, [*origin, (first, 1)])
    if isinstance(layer, MaxPool2D):
        window, origin = _window(layer.problem, x[:, :, at[2] : at[2] + 1], at, layer.problem.kernel_size, -np.inf)
        return Window(window, None, 0.0, [*origin, (at[2], 1)])
    if isinstance(layer, ImageNorm):
        return _normalized(layer, x, at)
    if isinstance(layer, _AFFINE):
        nothing, exact, ones = np.zeros((1, *x.shape)), _host_copy(layer), _host_copy(layer)
        for array in ones.arrays.values():
            array[...] = 1  # so that inputs with a weight of 0 are in the window too
        box = _one_value_box(at) if layer.elementwise else _bounding_box(_output_derivatives(ones, nothing, at))
        with backends.oracle():
            bias = float(exact.infer(nothing)[(0, *at)])
        return Window(x[box], _output_derivatives(exact, nothing, at)[box], bias, _origin(box))
    box = _one_value_box(np.unravel_index(np.ravel_multi_index(at, layer.output_shape or ()), x.shape))
    return Window(x[box], None, 0.0, _origin(box))


def derivatives_of_outputs(layer: Layer, x: np.ndarray, at: Index) -> np.ndarray:
    """The derivatives of all outputs of a layer with respect to the input at an index: the factors of the outputs'
    gradients."""
    one = np.zeros((1, *x.shape))
    one[(0, *at)] = 1
    if isinstance(layer, MaxPool2D):
        return _windows_won(layer, x, at)
    if isinstance(layer, _PASSING):
        return one.reshape(layer.output_shape or ())
    exact = _host_copy(layer)
    if isinstance(layer, _AFFINE):
        for name in exact.arrays.keys() & _CONSTANTS:
            exact.arrays[name][...] = 0
        with backends.oracle():
            return exact.infer(one)[0]
    if isinstance(layer, ImageNorm):  # apart from the weight, the Jacobian is symmetric
        weight = exact.arrays["weight"].copy()
        exact.arrays["weight"][...] = 1
        return _output_derivatives(exact, x[None], at) * weight
    return _output_derivatives(exact, x[None], at)


def branches(layer: Merging, x: Array) -> list[Array]:
    """The outputs of a layer's branches. The branches of a residual block are its body and its shortcut."""
    return [row.infer(x) if row else x for row in layer.rows]


def branch_at(layer: Merging, at: Index) -> tuple[int, Index]:
    """The number (from 0) of the branch that a concatenation's index belongs to, and the index in that branch's
    output."""
    shapes = [row.output_shape if row else layer.input_shape for row in layer.rows]
    starts = [0, *accumulate(shape[-1] for shape in shapes if shape)]
    number = bisect_right(starts, at[-1]) - 1
    return number, (*at[:-1], at[-1] - starts[number])


def as_float64(array: object) -> np.ndarray:
    return backends.to_numpy(array).astype(np.float64)


def _names(row: Sequential) -> str:
    return ", ".join(each.path for _, each in row.children())


def _host_copy(layer: Layer) -> Layer:
    """A copy on the host, in float64."""
    return layer.twin().to("numpy", "float64")


def _output_derivatives(exact: Layer, x: np.ndarray, at: Index) -> np.ndarray:
    """The derivatives of the output at an index with respect to all inputs."""
    one = np.zeros((1, *(exact.output_shape or ())))
    one[(0, *at)] = 1
    with backends.oracle():
        exact.forward(x)
        return np.asarray(exact.backward(one))[0]


def _normalized(layer: ImageNorm, x: np.ndarray, at: Index) -> Window:
    """The inputs that are normalized together with one input. The value is weight * (input - mean) / deviation + bias.
    The factors treat the deviation as a constant, although it depends on the inputs as well."""
    count = x.shape[-1] // layer.groups if isinstance(layer, GroupNorm) else x.shape[-1]
    first = at[-1] // count * count
    positions = [slice(None)] * (x.ndim - 1) if isinstance(layer, GroupNorm) else _one_value_box(at[:-1])
    box = (*positions, slice(first, first + count))
    values = x[box]
    scale = as_float64(layer["weight"])[at[-1]] / np.sqrt(values.var() + layer.eps)
    origin = _origin(box)
    factors = np.full(values.shape, -scale / values.size)
    factors[tuple(i - start for i, (start, _) in zip(at, origin))] += scale
    return Window(values, factors, float(as_float64(layer["bias"])[at[-1]]), origin)


def _one_value_box(at: Sequence[int | np.integer]) -> tuple[slice, ...]:
    return tuple(slice(int(i), int(i) + 1) for i in at)


def _bounding_box(factors: np.ndarray) -> tuple[slice, ...]:
    """The smallest box with all nonzero factors; the first value if there is none."""
    found = [indices if indices.size else np.zeros(1, int) for indices in factors.nonzero()]
    return tuple(slice(int(indices.min()), int(indices.max()) + 1) for indices in found)


def _origin(box: tuple[slice, ...]) -> list[tuple[int, int]]:
    return [(each.start or 0, 1) for each in box]


def _window(
    problem: Conv2dProblem | Pool2dProblem, x: np.ndarray, at: Index, size: tuple[int, ...], outside: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The window of a convolution or a pool, and its `Window.origin`, which may lie in the padding."""
    steps = getattr(problem, "dilation", (1, 1))
    origin = [(at[axis] * problem.stride[axis] - problem.padding[axis][0], steps[axis]) for axis in (0, 1)]
    window = np.full((*size, x.shape[2]), outside)
    for i, j in np.ndindex(*size):
        row, column = origin[0][0] + i * steps[0], origin[1][0] + j * steps[1]
        if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
            window[i, j] = x[row, column]
    return window, origin


def _windows_won(layer: MaxPool2D, x: np.ndarray, at: Index) -> np.ndarray:
    """1 for each window whose maximum is the input at this index, else 0."""
    _, argmax = ops.max_pool2d(x[None], **layer.options)
    won = np.zeros(argmax.shape)
    channel, columns = at[2], layer.problem.kernel_size[1]
    for row, column in np.ndindex(*argmax.shape[1:3]):
        inside = divmod(int(argmax[0, row, column, channel]), columns)
        maximum = [
            i * s - p[0] + r for i, s, p, r in zip((row, column), layer.problem.stride, layer.problem.padding, inside)
        ]
        won[0, row, column, channel] = tuple(maximum) == at[:2]
    return won[0]
