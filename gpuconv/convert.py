"""FC <-> CONV: the two are one operation, with other shapes ("Converting FC layers to CONV layers", CS231n notes).

An FC layer on an (H, W, C) volume is a CONV layer whose filters are as large as the volume. In NHWC its weight
(out, H * W * C) is that filter bank (out, H, W, C) already: a reshape, no value moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.layers import AvgPool2D, BatchNorm, Conv2D, Flatten, GlobalAvgPool2D, Input, Layer, Linear, Sequential

Shape = tuple[int, ...]


def linear_to_conv(linear: Linear, volume: Shape | None = None) -> Conv2D:
    """The CONV layer that computes what a built FC layer does, with the same values.

    volume: the (H, W, C) that was flattened before it; without one, its features are the channels of a 1x1 map.
    Raises ValueError when the volume does not hold the layer's inputs, or the layer is not built.
    """
    (features,) = _input_shape(linear)
    volume = (1, 1, features) if volume is None else volume
    if math.prod(volume) != features:
        raise ValueError(f"the layer reads {features} features, {volume} has {math.prod(volume)}")
    conv = _as_conv(linear, volume)
    conv.build(volume, precision=linear.precision, device=linear.device)
    _copy_values(linear, conv)
    return conv


def conv_to_linear(conv: Conv2D) -> Linear:
    """The FC layer that maps the flattened input of a built CONV layer to its flattened output.

    Its weight is the convolution written as one matrix, (P * Q * K, H * W * C), mostly zeros unless the filter is as
    large as the input; that filter bank then comes out reshaped. Raises ValueError when the layer is not built.
    """
    shape = _input_shape(conv)
    inputs, outputs = math.prod(shape), math.prod(conv.output_shape or ())
    linear = Linear(outputs, bias=conv.bias, algo=conv.algo, frozen=conv.frozen)
    linear.build((inputs,), precision=conv.precision, device=conv.device)
    units = backends.asarray(np.eye(inputs, dtype=conv.dtype).reshape(inputs, *shape), conv.device)
    linear["weight"][...] = ops.conv2d(units, conv["weight"], **conv.problem.window).reshape(inputs, outputs).T
    if conv.bias:
        linear["bias"].reshape(-1, conv.out_channels)[...] = conv["bias"]
    return linear


def as_convolutional(net: Sequential) -> Sequential:
    """A net of CONV layers alone with the same values, which slides over larger images in one pass.

    On an image of the original size it gives the original scores as a 1x1 map; on a larger one, a map of scores at
    steps of the product of all strides. Each equals the original net's on the window of the original size there, as
    long as every window of a layer lies inside the layer's map: at the borders of a window, a layer with padding or
    fit="cover" sees the neighbourhood where the original sees nothing. Where fit="floor" left a rest of the original
    map unread, there may be scores whose window ends that much beyond the image, in what they do not read.

    Raises ValueError for a net that cannot slide: one with batch norm between Flatten and FC, or without an Input.
    """
    if not isinstance(net[0], Input):
        raise ValueError("a net that slides begins with Input, which says how large its windows are")
    twin = Sequential(_slid(net), seed=net.seed, precision=net.precision, device=net.device)
    _copy_values(net, twin)
    return twin


def _slid(layers: Iterable[Layer]) -> list[Layer]:
    """The layers of a row, each in the form that slides."""
    slid: list[Layer] = []
    volume: Shape | None = None  # what Flatten flattened, until an FC layer has read it
    for layer in layers:
        if isinstance(layer, Input):
            slid.append(Input(layer.shape, larger=True, name=layer.name))
        elif isinstance(layer, Flatten):
            volume = layer.input_shape
        elif isinstance(layer, Linear):
            slid.append(_as_conv(layer, volume or (1, 1)))
            volume = None
        elif isinstance(layer, GlobalAvgPool2D):
            assert layer.input_shape is not None
            slid.append(AvgPool2D((layer.input_shape[0], layer.input_shape[1]), stride=1, name=layer.name))
        elif isinstance(layer, Sequential):
            slid.append(Sequential(_slid(layer), name=layer.name))
        elif volume and isinstance(layer, BatchNorm):
            raise ValueError(f"{layer.path} normalises each place of the flattened volume, which cannot slide")
        elif any(isinstance(inner, (Linear, Flatten, GlobalAvgPool2D)) for inner in layer.walk()):
            raise ValueError(f"{layer.path} holds an FC layer or a global pool inside, which cannot slide")
        else:
            slid.append(Layer.from_config(layer.config()))
    return slid


def _input_shape(layer: Layer) -> Shape:
    if layer.input_shape is None:
        raise ValueError(f"build the {type(layer).__name__} first: what it reads is not known yet")
    return layer.input_shape


def _as_conv(linear: Linear, volume: Shape) -> Conv2D:
    return Conv2D(
        linear.out_features,
        (volume[0], volume[1]),
        bias=linear.bias,
        algo=linear.algo,
        name=linear.name,
        frozen=linear.frozen,
        weight_init=linear.weight_init,
        bias_init=linear.bias_init,
    )


def _copy_values(source: Layer, target: Layer) -> None:
    """Copy every array to the one under the same key, which may have another shape of the same size."""
    shapes: dict[str, Any] = {key: value.shape for key, value in target.state_dict().items()}
    target.load_state_dict({key: value.reshape(shapes[key]) for key, value in source.state_dict().items()})
